"""With workers that do not communicate: nothing here imports torch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surmin.launch.interrupts import REPEATS
from surmin.launch.supervisor import supervise
from tests.launch.cases import WORKER, Launch, wait_until

ENDING_IN_ORDER = (
    WORKER
    + """
received = []
signal.signal(signal.SIGINT, lambda *_: received.append("int"))
signal.signal(signal.SIGTERM, lambda *_: received.append("term"))
signal.signal(signal.SIGHUP, lambda *_: received.append("hup"))
Path(f"ready-{worker.rank}").touch()
while not received:
    time.sleep(0.01)
time.sleep(0.2)
Path(f"received-{worker.rank}").write_text(" ".join(received))
sys.exit(130)
"""
)


def test_all_succeed(launch: Launch) -> None:
    run = launch(WORKER + "print(worker.rank, worker.count, worker.local_rank)\nprint('said', file=sys.stderr)\n", 3)
    assert run.result() == (0, "0 3 0\n", "said\n")
    assert [run.pid(rank) > 0 for rank in range(3)] == [True] * 3


def test_a_user_error_is_one_line(launch: Launch) -> None:
    run = launch(WORKER + "if worker.rank == 1:\n    worker.fail(ValueError('no such\\nthing'))\ntime.sleep(100)\n")
    assert run.result() == (2, "", "surmin: worker 1: no such thing\n")
    assert run.survivors() == []


def test_what_all_say_is_said_once(launch: Launch) -> None:
    run = launch(WORKER + "worker.fail(ValueError('no such thing'))\n", 3, timeout=120)
    assert run.result() == (2, "", "surmin: no such thing\n")


def test_an_unexpected_error_names_its_place(launch: Launch) -> None:
    script = WORKER + "try:\n    [][worker.rank]\nexcept IndexError as error:\n    worker.fail(error)\n"
    place = f"script.py:{script[: script.index('[][')].count(chr(10)) + 1}"
    message = f"surmin: IndexError: list index out of range ({place}); continue with --resume run\n"
    assert launch(script).result() == (1, "", message)


def test_without_a_report_the_last_line_of_stderr_is_shown(launch: Launch) -> None:
    long = "print('x' * 200_000, file=sys.stderr)\n"
    run = launch(WORKER + f"if worker.rank == 1:\n    {long}    sys.exit('last words')\ntime.sleep(100)\n")
    message = "surmin: worker 1 ended with exit code 1: last words; continue with --resume run\n"
    assert run.result() == (1, "", message)
    assert run.survivors() == []


def test_a_worker_killed_is_named(launch: Launch) -> None:
    run = launch(WORKER + "if worker.rank == 2:\n    os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(100)\n", 3)
    message = "worker 2 was killed by SIGKILL; the other workers were ended; continue with --resume run"
    assert run.result() == (3, "", f"surmin: {message}\n")
    assert run.survivors() == []


def test_workers_that_do_not_heed_sigterm_are_killed(launch: Launch) -> None:
    script = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WORKER
    run = launch(script + "if worker.rank == 1:\n    time.sleep(0.2); sys.exit(5)\ntime.sleep(100)\n")
    assert run.result()[0] == 5
    assert run.survivors() == []


def test_one_that_does_not_end_with_the_others_is_named(launch: Launch) -> None:
    run = launch(WORKER + "if worker.rank == 1:\n    time.sleep(100)\n", timeout=0.5)
    message = "worker 1 did not answer within 0.25 s; the other workers were ended; continue with --resume run"
    assert run.result() == (3, "", f"surmin: {message}\n")
    assert run.survivors() == []


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "int"), (signal.SIGTERM, "term"), (signal.SIGHUP, "hup")])
def test_an_interrupt_reaches_every_worker_once_and_is_waited_for(launch: Launch, number: int, name: str) -> None:
    run = launch(ENDING_IN_ORDER)
    run.wait_for("ready")
    run.supervisor.send_signal(number)
    assert run.result() == (130, "", "")
    assert [(run.folder / f"received-{rank}").read_text() for rank in range(2)] == [name, name]


def test_one_request_that_comes_twice_is_passed_on_once(launch: Launch) -> None:
    run = launch(ENDING_IN_ORDER)
    run.wait_for("ready")
    for number in (signal.SIGTERM, signal.SIGINT):
        run.supervisor.send_signal(number)
    assert run.result() == (130, "", "")
    assert all((run.folder / f"received-{rank}").read_text() in ("int", "term") for rank in range(2))


def test_a_second_interrupt_ends_workers_that_take_too_long(launch: Launch) -> None:
    noting = "signal.signal(signal.SIGINT, lambda *_: Path(f'noted-{worker.rank}').touch())\n"
    run = launch(WORKER + noting + "Path(f'ready-{worker.rank}').touch()\nwhile True:\n    time.sleep(1)\n")
    run.wait_for("ready")
    run.supervisor.send_signal(signal.SIGINT)
    run.wait_for("noted")
    assert run.survivors() == [0, 1]
    time.sleep(REPEATS)
    run.supervisor.send_signal(signal.SIGINT)
    assert run.result() == (130, "", "surmin: interrupted\n")
    assert run.survivors() == []


def test_no_worker_outlives_a_supervisor_that_is_killed(launch: Launch) -> None:
    busy = "Path(f'ready-{worker.rank}').touch()\nwhile True:\n    pass\n"
    run = launch(WORKER + busy, 3)
    run.wait_for("ready")
    os.kill(run.pid(1), signal.SIGSTOP)
    threads = list(Path(f"/proc/{run.pid(1)}/task").glob("*/status"))
    wait_until(lambda: all("T (stopped)" in thread.read_text() for thread in threads))
    run.supervisor.kill()
    wait_until(lambda: run.survivors() == [])


def test_an_error_is_traced_on_demand(launch: Launch) -> None:
    run = launch(WORKER + "if worker.rank == 1:\n    worker.fail(ValueError('no such thing'))\n", SURMIN_DEBUG="1")
    code, _, errors = run.result()
    assert code == 2 and errors == "ValueError: no such thing\nsurmin: worker 1: no such thing\n"


def test_what_cannot_be_started_leaves_nothing_behind() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        supervise(2, ["no-such-program"], timeout=1)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(("count", "timeout"), [(0, 1.0), (1, 0.0)])
def test_figures_that_are_not_positive(count: int, timeout: float) -> None:
    with pytest.raises(ValueError, match="workers and timeout must be positive"):
        supervise(count, [sys.executable], timeout=timeout)


def test_closed_standard_streams_are_not_taken_for_others() -> None:
    program = """
import os
from surmin.launch.supervisor import _open_standard_streams
os.close(0), os.close(1)
_open_standard_streams()
assert os.open(os.devnull, os.O_RDONLY) > 2
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
