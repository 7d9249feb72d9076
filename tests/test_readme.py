"""What the README says must run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from surmin.cli import parse

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example, _ = EXAMPLES
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert float(lines[-1].split()[0]) < float(lines[0].split()[0])


@pytest.mark.slow
def test_the_example_for_workers_runs(tmp_path: Path) -> None:
    file = tmp_path / "workers.py"
    file.write_text(EXAMPLES[1], encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ran = subprocess.run(launcher, capture_output=True, text=True, timeout=120, env=environment, check=True)
    losses = re.findall(r"worker [01]: loss (\d\.\d+e[+-]\d+)", ran.stdout)  # lines of two workers can run together
    assert len(losses) == 2
    assert losses[0] == losses[1]


def test_the_commands_parse() -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^surmin (.+)$", "\n".join(blocks), re.MULTILINE)
    expected = {"train", "compare", "paper", "simulate", "check", "theory", "timeline"}
    assert {words.split()[0] for words in commands} == expected
    for words in commands:
        parse(words.split())


def test_the_pictures_are_there() -> None:
    targets = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert targets
    for target in targets:
        assert (Path(__file__).parent.parent / target).is_file(), target
