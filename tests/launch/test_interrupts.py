import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from surmin.experiments.runs.metrics import read_rows
from surmin.launch import interrupts
from surmin.launch.interrupts import deferred_interrupt
from tests.experiments.runs.cases import resume, rows_of, start, tiny_run

COMMAND = [sys.executable, "-m", "surmin", "train", "--method", "adam", "--rounds", "1000000"]


@pytest.fixture
def python_s_own_handler() -> Iterator[None]:
    """A shell that starts the tests in the background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_s_own_handler")
def test_the_first_interrupt_is_noted_and_the_second_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "REPEATS", 0.0)
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as is_interrupted:
        assert not is_interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert is_interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("python_s_own_handler")
def test_one_that_comes_twice_is_one() -> None:
    """As when a process group and the supervisor in it are both asked, and the supervisor passes it on."""
    received: list[None] = []
    with deferred_interrupt(lambda: received.append(None)) as is_interrupted:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert is_interrupted() and received == [None]


def test_a_hangup_interrupts_unless_nohup_has_it_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with deferred_interrupt() as is_interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert is_interrupted()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with deferred_interrupt() as is_interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not is_interrupted()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_are_left_alone() -> None:
    seen: list[bool] = []

    def work() -> None:
        with deferred_interrupt() as is_interrupted:
            seen.append(is_interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_a_folder_that_resumes_exactly(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "run"
    options = ["--train-samples", "60", "--layers", "3", "--width", "8", "--stages", "2", "--dtype", "float64"]
    process = subprocess.Popen(
        [*COMMAND, *options, "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # `nohup make test` has it ignored
    )
    try:
        while process.poll() is None and count_lines(folder / "metrics.jsonl") < 3:
            time.sleep(0.02)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == ""
    rounds = len(read_rows(folder / "metrics.jsonl")) - 1
    assert output.startswith(f"interrupted after {rounds} rounds")
    assert (folder / "metrics.jsonl").read_bytes().endswith(b"\n")
    assert (folder / "curves.png").exists()
    resume(folder, rounds=rounds + 3).train()
    whole = start(tiny_run(method="adam", rounds=rounds + 3), tmp_path / "whole")
    whole.train()
    assert rows_of(folder) == rows_of(tmp_path / "whole")
