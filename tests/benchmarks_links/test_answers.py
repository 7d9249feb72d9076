"""Processes whose output is read are not kept waiting, and do not stay."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.links.answers import answers_of

TALKER = "import pathlib, sys; print('x' * 1_000_000, flush=True); pathlib.Path(sys.argv[1]).touch()"
WAITER = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)"


def start(program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


def test_one_that_prints_much_does_not_wait_to_be_heard(tmp_path: Path) -> None:
    """The first ends when the second has printed all."""
    place = str(tmp_path / "printed")
    said = answers_of([start(WAITER, place), start(TALKER, place)], 20)
    assert said == ["", "x" * 1_000_000 + "\n"]


def test_all_have_ended_when_one_takes_too_long_or_fails() -> None:
    workers = [start("import time; time.sleep(60)"), start("pass")]
    with pytest.raises(subprocess.TimeoutExpired):
        answers_of(workers, 0.5)
    assert all(worker.poll() is not None for worker in workers)
    with pytest.raises(RuntimeError, match="a process over the links failed"):
        answers_of([start("raise SystemExit(3)"), start("pass")], 20)
