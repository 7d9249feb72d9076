"""`surmin train --workers`: the same rows as one process, and what is left when a worker is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import is_running

KILLS = int(os.environ.get("SURMIN_KILLS", "1"))
"""How often a worker is killed at a random moment; more take half a minute each."""
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


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * KILLS)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers by /proc")
def test_a_killed_worker_ends_the_run_and_resuming_reaches_the_same_loss(tmp_path: Path) -> None:
    words = [*PROBLEM, "--rounds", "12", "--workers", "2"]
    run(*words, "--out", str(tmp_path / "whole"))
    expected = rows(tmp_path / "whole")[-1]["loss"]
    for trial in range(KILLS):
        folder = tmp_path / f"killed-{trial}"
        started = subprocess.Popen(
            command(*words, "--rounds", "100000", "--out", str(folder)),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        try:
            deadline = time.monotonic() + SECONDS
            while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(random.Random(trial).uniform(0, 1.5))
            workers = children(started.pid)
            rank = trial % 2
            os.kill(workers[rank], signal.SIGKILL)
            _, errors = started.communicate(timeout=SECONDS)
        finally:
            started.kill()
        assert started.returncode == 3, errors
        assert f"worker {rank} was killed by SIGKILL" in errors
        assert not any(map(is_running, workers))
        run("--resume", str(folder), "--rounds", "12", "--out", str(tmp_path / f"resumed-{trial}"))
        assert rows(tmp_path / f"resumed-{trial}")[12]["loss"] == expected
