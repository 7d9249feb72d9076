"""Which number of workers holds, and who starts them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from surmin.commands import launching
from surmin.commands.joining import for_team
from surmin.commands.launching import launch
from surmin.experiments.configs.run import ExperimentConfig, RunConfig
from surmin.experiments.configs.timeline import TimelineConfig
from surmin.experiments.runs.team import Workers
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
    config = RunConfig.from_json(document["options"])
    assert for_team(config, TWO, run.folder.path).workers == 2
    with pytest.raises(ValueError, match="--workers 3, but 2 were started"):
        for_team(config, TWO)


def test_workers_get_the_same_options_and_only_a_run_can_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, list[str], float, Path | None]] = []

    def supervise(count: int, command: list[str], *, timeout: float, folder: Path | None) -> int:
        calls.append((count, command[1:4], timeout, folder))
        return 3

    monkeypatch.setattr(launching, "supervise", supervise)
    path = tmp_path / "new"
    assert launch(RunConfig(), path) is None
    assert launch(RunConfig(workers=3, timeout=9), path) == launch(TimelineConfig(), path) == 3
    assert calls == [
        (3, ["-m", "surmin", "train"], 9, path),
        (4, ["-m", "surmin", "timeline"], 300, None),
    ]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        launch(RunConfig(workers=3), tmp_path)


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
