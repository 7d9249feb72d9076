"""The programs of docs/guides/machines.md, put together as the page says and run by torchrun."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = (Path(__file__).parent.parent / "docs/guides/machines.md").read_text(encoding="utf-8")
WHOLE, PREDICT, LOAD, CHECKPOINTS, TRACE = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
((START, LOOP, END),) = re.findall(r"\A(.*^sm = .*?\n)(for .*?^print.*?\n)(.*)", WHOLE, re.DOTALL | re.MULTILINE)


def run(folder: Path, *parts: str) -> str:
    """What two workers print that run these parts one after the other."""
    program = folder / "workers.py"
    program.write_text("".join(parts), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ran = subprocess.run(
        launcher, capture_output=True, text=True, timeout=120, env=environment, cwd=folder, check=True
    )  # fmt: skip
    return ran.stdout


@pytest.mark.slow
def test_training_saving_predicting_and_tracing_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run(tmp_path, START, LOOP, "test_inputs = inputs\n", PREDICT, TRACE, END)
    (loss, again) = re.findall(r"worker [01]: loss (\d\.\d+e[+-]\d+)", printed)
    assert loss == again
    assert "tensor([" in printed  # the last worker's predictions
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert {event["name"][0] for event in events} >= set("FBCUA")
    monkeypatch.chdir(tmp_path)
    one_process = START.partition("stages = ")[0].replace('dist.init_process_group("gloo")', "")
    scope: dict[str, Any] = {}
    exec(one_process + LOAD, scope)
    reached = torch.nn.functional.cross_entropy(scope["model"](scope["inputs"]), scope["targets"]).item()
    assert reached == pytest.approx(float(loss), rel=0.01)


@pytest.mark.slow
def test_a_program_with_checkpoints_goes_on_where_it_was(tmp_path: Path) -> None:
    def losses(printed: str) -> dict[str, str]:
        return dict(re.findall(r"worker 1: round (\d+), loss (\d\.\d+e[+-]\d+)", printed))

    half = losses(run(tmp_path, START, CHECKPOINTS.replace("), 20)", "), 10)"), END))
    rest = losses(run(tmp_path, START, CHECKPOINTS, END))
    assert list(half) == [str(number) for number in range(1, 11)]
    assert list(rest) == [str(number) for number in range(11, 21)]
    assert float(rest["11"]) < float(half["10"])
    assert run(tmp_path, START, CHECKPOINTS, END) == ""
