"""Several calls at a time, and what is left of them when the process that asked for them is killed."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surmin.experiments.comparisons.jobs import each
from surmin.launch.interrupts import deferred_interrupt
from tests.launch.cases import wait_until
from tests.processes import is_running


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order(jobs: int) -> None:
    assert list(each(math.sqrt, [4.0, 9.0, 16.0], jobs)) == [2.0, 3.0, 4.0]


def test_an_error_of_a_call_is_raised_here() -> None:
    results = each(math.sqrt, [4.0, -1.0], 2)
    assert next(results) == 2.0
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        next(results)


def count_to_thirty(folder: str, building: float) -> str:
    """Note that it was begun, build something for so many seconds, and then take some, or less when interrupted."""
    (Path(folder) / f"{time.monotonic_ns()}-{os.getpid()}").touch()
    time.sleep(building)
    with deferred_interrupt() as is_interrupted:
        for number in range(30):
            time.sleep(0.1)
            if is_interrupted():
                return f"interrupted at {number}"
    return "counted"


@pytest.mark.parametrize(
    ("whom", "number", "building"),
    [
        ("all", signal.SIGINT, 0.0),
        pytest.param("the first", signal.SIGINT, 0.7, id="before there is anything to receive it"),
        pytest.param("all", signal.SIGHUP, 0.7, id="by a terminal that is closed"),
        pytest.param("all", signal.SIGTERM, 0.7, id="by what ends a whole group"),
        pytest.param("the others", signal.SIGINT, 0.0, id="before the first has its turn"),
    ],
)
def test_after_an_interrupt_what_was_begun_ends_and_no_more_begins(
    tmp_path: Path, whom: str, number: signal.Signals, building: float
) -> None:
    program = (
        "import signal\nfrom functools import partial\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from tests.experiments.comparisons.test_jobs import count_to_thirty, each\n"
        f"count = partial(count_to_thirty, building={building})\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        f"        for result in each(count, [{str(tmp_path)!r}] * 20, 2): print(result, flush=True)\n"
        "    except KeyboardInterrupt: print('no more', flush=True)"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        time.sleep(0.3)
        if whom == "all":
            os.killpg(first.pid, number)
        elif whom == "the others":
            for begun in tmp_path.iterdir():
                os.kill(int(begun.name.split("-")[1]), number)
        else:
            first.send_signal(number)
        output, _ = first.communicate(timeout=20)
    finally:
        first.kill()
        first.wait()
    *ended, last = output.splitlines()
    assert last == "no more" and len(ended) == 2 and all("interrupted" in line for line in ended)
    assert len(list(tmp_path.iterdir())) == 2


def sleep_noted(folder: str) -> None:
    """Leave this process's number, and do nothing for a long time."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(1000)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds processes by /proc")
@pytest.mark.parametrize("whom", ["the first", "another"])
def test_no_process_is_left_when_one_is_killed(tmp_path: Path, whom: str) -> None:
    program = (
        "from tests.experiments.comparisons.test_jobs import each, sleep_noted\n"
        f"if __name__ == '__main__': list(each(sleep_noted, [{str(tmp_path)!r}] * 2, 2))"
    )
    first = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)
    started: list[int] = []
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        started = [int(path.name) for path in tmp_path.iterdir()]
        assert all(is_running(process) for process in started)
        os.kill(first.pid if whom == "the first" else started[0], signal.SIGKILL)
        first.wait(20)
        wait_until(lambda: not any(is_running(process) for process in started))
    finally:
        first.kill()
        first.wait()
        for process in started:
            if is_running(process):
                os.kill(process, signal.SIGKILL)
