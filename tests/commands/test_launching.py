"""Which number of workers holds, and who starts them."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from surmin import cli
from surmin.commands import launching
from surmin.commands.joining import check_agreement, for_team
from surmin.commands.launching import launch
from surmin.experiments.configs.run import ExperimentConfig, RunConfig
from surmin.experiments.configs.saved import parse_options
from surmin.experiments.configs.timeline import TimelineConfig
from surmin.experiments.runs import problem
from surmin.experiments.runs.problem import load_data
from surmin.experiments.runs.team import Alone, Workers
from surmin.launch.worker import Worker
from surmin.options.presets import PRESETS
from tests.experiments.runs.cases import start, tiny_run

TWO = Workers(rank=0, count=2, place=0, timeout=9)


@pytest.mark.parametrize("config", [RunConfig(), RunConfig(workers=2), TimelineConfig(), TimelineConfig(workers=2)])
def test_the_number_that_torchrun_started_holds(config: ExperimentConfig) -> None:
    assert for_team(config, TWO) == replace(config, workers=2)


@pytest.mark.parametrize("config", [RunConfig(workers=3), TimelineConfig(workers=1)])
def test_another_number_is_refused(config: ExperimentConfig) -> None:
    with pytest.raises(ValueError, match=rf"--workers {config.workers}, but 2 were started: leave --workers out"):
        for_team(config, TWO)


def test_what_the_number_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 workers cannot share 1 stages"):
        for_team(RunConfig(stages=1), TWO)
    assert for_team(RunConfig(stages=1, replicas=2), TWO).workers == 2
    with pytest.raises(ValueError, match="2 workers cannot hold 3 equal replicas"):
        for_team(RunConfig(replicas=3), TWO)


def test_a_resumed_run_s_number_is_not_taken_for_one_that_was_given(tmp_path: Path) -> None:
    run = start(tiny_run(rounds=0), tmp_path / "run")
    path = run.folder.config
    document = json.loads(path.read_text())
    document["options"] |= {"workers": 3, "stages": 3}
    path.write_text(json.dumps(document))
    config = parse_options(document["options"], RunConfig)
    assert for_team(config, TWO, run.folder.path).workers == 2
    with pytest.raises(ValueError, match="--workers 3, but 2 were started"):
        for_team(config, TWO)


def test_workers_get_the_same_options_and_only_a_run_can_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, list[str], float, Path | None]] = []

    def supervise(count: int, command: list[str], *, timeout: float, folder: Path | None) -> int:
        at = command.index("-m")
        calls.append((count, command[at : at + 3], timeout, folder))
        return 3

    monkeypatch.setattr(launching, "supervise", supervise)
    path = tmp_path / "new"
    assert launch(RunConfig(), path) is None
    assert launch(RunConfig(workers=3, timeout=10), path) == launch(TimelineConfig(), path) == 3
    assert calls == [
        (3, ["-m", "surmin", "train"], 10, path),
        (4, ["-m", "surmin", "timeline"], 300, None),
    ]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        launch(RunConfig(workers=3), tmp_path)


@pytest.mark.parametrize(("is_found", "flags"), [(True, []), (False, ["-P"])])
def test_workers_look_into_the_working_folder_where_this_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_found: bool, flags: list[str]
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(launching, "supervise", lambda count, command, **_: commands.append(command) or 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*[os.getcwd()] * is_found, *filter(None, sys.path)])
    launch(RunConfig(workers=2), Path("new"))
    assert commands[0][: len(flags) + 3] == [sys.executable, *flags, "-m", "surmin"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"delta": 2.0}, "delta does nothing with curvature factor: leave it out, or choose --curvature scalar"),
        ({"preset": "trips", "delta": 2.0}, "delta does nothing with curvature factor"),
        ({"curvature": "scalar", "rank": 4}, "rank does nothing with curvature scalar: leave it out, or choose"),
        ({"curvature": "sample", "curvature_fraction": 0.5}, "curvature_fraction does nothing with curvature sample"),
        ({"preset": "paper", "rank": 4}, "rank does nothing with curvature scalar"),
    ],
)
def test_options_that_do_nothing_are_refused_at_the_start(
    tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    for config in (RunConfig(**options), TimelineConfig(workers=1, **options)):
        with pytest.raises(ValueError, match=complaint):
            launch(config, tmp_path / "new")
    launch(RunConfig(**options), tmp_path / "new", resume=tmp_path / "old")  # it keeps what it has


@pytest.mark.parametrize(
    "options",
    [
        {"curvature": "sample", "delta": 2.0}, {"preset": "paper", "delta": 2.0}, {"method": "sm-paper", "delta": 2.0},
        {"rank": 4}, {"curvature_fraction": 0.5}, {"preset": "paper", "curvature": "factor", "rank": 4},
        {"method": "kfac", "rank": 4},
    ],
)  # fmt: skip
def test_options_that_do_something_are_taken(tmp_path: Path, options: dict[str, Any]) -> None:
    assert launch(RunConfig(**options), tmp_path / "new") is None


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_s_curvature_is_known_without_torch(preset: Any) -> None:
    idle = {"delta": 1.0} if PRESETS[preset].curvature == "factor" else {"rank": 1}
    with pytest.raises(ValueError, match="does nothing"):
        RunConfig(preset=preset, **idle).check_effects()


@pytest.mark.slow
def test_a_timeline_under_torchrun_takes_over_its_number_of_workers(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "surmin", "timeline", "--width", "16", "--train-samples", "40", "--layers", "2", "--out", "traced"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *words, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "traced" / "timeline.json").read_text())
    assert document["otherData"]["options"]["workers"] == 2
    assert len(document["otherData"]["runs"]["sm"]["utilisation"]) == 2


@dataclass(frozen=True)
class Told(Alone):
    """Worker 0 of two, that hears what worker 1 says."""

    said: str = ""
    count: int = 2

    def gather(self, text: str) -> list[str]:
        """The other's word is known beforehand."""
        return [text, self.said]


def test_workers_with_other_options_are_named() -> None:
    check_agreement(RunConfig(lr=0.1), Told(said=json.dumps(asdict(RunConfig(lr=0.1, device="cpu")))))
    with pytest.raises(ValueError, match=r"worker 1 was started with --lr 5.0, worker 0 with 0.1: start all with"):
        check_agreement(RunConfig(lr=0.1), Told(said=json.dumps(asdict(RunConfig(lr=5.0)))))


def test_what_is_no_number_is_the_same_option_on_all() -> None:
    config = RunConfig(damping=math.nan)
    check_agreement(config, Told(said=json.dumps(asdict(config))))


def mirrored(images: Tensor) -> Tensor:
    """The same numbers in every sample, in another order."""
    return images.flip(-1)


@pytest.mark.parametrize("change", [mirrored, torch.neg])
def test_workers_with_other_data_are_named(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    told: list[str] = []
    config = RunConfig(data="digits")

    class Telling(Told):
        def gather(self, text: str) -> list[str]:
            told.append(text)
            return [text, text]

    data = load_data(config, Telling())
    other = replace(data, train_inputs=change(data.train_inputs))
    monkeypatch.setattr(problem, "load_dataset", lambda *_, **__: other)
    with pytest.raises(ValueError, match="worker 1 has loaded different data than worker 0"):
        load_data(config, Told(said=told[0]))


def test_what_runs_in_one_process_is_refused_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ended(Exception):
        pass

    def fail(_worker: Worker, error: BaseException) -> None:
        raise Ended(str(error))

    monkeypatch.setattr(cli, "this_worker", lambda: Worker(0, 2, 0))
    monkeypatch.setattr(Worker, "fail", fail)
    with pytest.raises(Ended, match="surmin compare runs in one process: start it without torchrun"):
        cli.main(["compare", "--data", "digits"])
