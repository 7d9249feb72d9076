"""`surmin train --workers`: the same rows as one process, and what is left when a worker is killed."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist

from surmin.checkpoints.round_folder import newest_round, round_number
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs import run as run_module
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.saved import SavedRun
from surmin.experiments.runs.team import Workers as Team
from tests.distributed.settings import TIMEOUT
from tests.distributed.workers import Workers
from tests.experiments.runs.cases import tiny_run
from tests.processes import is_running

KILLS = int(os.environ.get("SURMIN_KILLS", "5"))
"""How often a worker is killed at a random moment; each takes some seven seconds on two slow cores."""
SECONDS = 120
PROBLEM = ["--data", "digits", "--train-samples", "300", "--layers", "4", "--width", "16", "--dtype", "float64"]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "surmin", "train", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(command(*words), capture_output=True, text=True, timeout=SECONDS, env=environment())
    assert ran.returncode == 0, ran.stderr
    return ran


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_workers_write_what_one_process_writes(tmp_path: Path) -> None:
    words = [*PROBLEM, "--microbatches", "3", "--stages", "2"]
    run(*words, "--rounds", "6", "--out", str(tmp_path / "one"))
    run(*words, "--rounds", "4", "--workers", "2", "--out", str(tmp_path / "two"))
    one = rows(tmp_path / "one")
    for alone, together in zip(one[:5], rows(tmp_path / "two"), strict=True):
        figures = {name for name in alone if isinstance(alone[name], float)} - {"seconds"}
        assert {name: alone[name] for name in figures} == pytest.approx(
            {name: together[name] for name in figures}, rel=1e-9
        )
        assert (alone["messages"], alone["bytes"]) == (together["messages"], together["bytes"])
    run("--resume", str(tmp_path / "two"), "--workers", "1", "--rounds", "6", "--out", str(tmp_path / "on"))
    assert rows(tmp_path / "on")[6]["loss"] == pytest.approx(one[6]["loss"], rel=1e-9)


def test_the_seconds_are_those_of_the_worker_that_took_longest(workers: Workers, tmp_path: Path) -> None:
    workers.run(2, train_by_own_clock, tmp_path / "run")
    assert [row["seconds"] for row in rows(tmp_path / "run")] == [0.0, 2.0, 4.0]


def train_by_own_clock(folder: Path) -> None:
    """By worker 0's a round takes a second, by worker 1's two."""
    ticks = itertools.count(step=1.0 + dist.get_rank())
    clock = SimpleNamespace(perf_counter=lambda: next(ticks), monotonic=time.monotonic)
    with patch.object(run_module, "time", clock):
        train_here(tiny_run(method="adam", workers=2, rounds=2), folder, None)


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * KILLS)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers by /proc")
def test_a_killed_worker_ends_the_run_and_resuming_reaches_the_same_loss(workers: Workers, tmp_path: Path) -> None:
    """Every resumed run goes on from a round that is not the first, to one that none had come to."""
    folders = [tmp_path / f"killed-{trial}" for trial in range(KILLS)]
    for trial, folder in enumerate(folders):
        train_until_killed(folder, rank=trial % 2)
    killed = [SavedRun.read(folder) for folder in folders]
    reached = [saved.rows[-1].round for saved in killed]
    assert min(reached) > 0
    config = replace(killed[0].config, rounds=max(reached) + 5, checkpoint_seconds=30.0)
    workers.run(2, train_here, config, tmp_path / "whole", None)
    expected = [row["loss"] for row in rows(tmp_path / "whole")]
    for saved, own in zip(killed, reached, strict=True):
        workers.run(2, train_here, config, saved.folder.path, saved)
        assert [row["loss"] for row in rows(saved.folder.path)] == expected, f"resumed from round {own}"


def train_until_killed(folder: Path, rank: int) -> None:
    """A run that writes a checkpoint before every round, until a worker is killed, in a round or in writing one."""
    words = [*PROBLEM, "--batch-size", "100", "--workers", "2", "--rounds", "100000", "--checkpoint-seconds", "0"]
    started = subprocess.Popen(
        command(*words, "--out", str(folder)),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        while newest_number(folder / "checkpoint") == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(random.uniform(0, 0.5))
        pids = children(started.pid)
        os.kill(pids[rank], signal.SIGKILL)
        _, errors = started.communicate(timeout=SECONDS)
    finally:
        started.kill()
    assert started.returncode == 3, errors
    assert f"worker {rank} was killed by SIGKILL" in errors
    assert not any(map(is_running, pids))


def newest_number(folder: Path) -> int:
    newest = newest_round(folder)
    return 0 if newest is None else round_number(newest)


def train_here(config: RunConfig, folder: Path, saved: SavedRun | None) -> None:
    """What each of two workers does."""
    run = Run(config, folder, Team(dist.get_rank(), dist.get_world_size(), dist.get_rank(), TIMEOUT))
    if saved is None:
        run.start()
    else:
        run.resume(saved)
    run.train()
    run.problem.pipeline.flush()  # type: ignore[attr-defined]
