"""Starting workers on this machine and watching over them: when one fails, all end, and the one at fault is named."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from surmin.launch.deadlines import Deadlines
from surmin.launch.interrupts import interrupts
from surmin.launch.local_worker import LocalWorker
from surmin.launch.verdict import State, Verdict, judge, patience
from surmin.launch.worker import RENDEZVOUS_VARIABLE

INTERVAL = 0.05
CHECKPOINTS = ("checkpoint/round-*[0-9]", "checkpoint/round-*.replaced")
"""What a run's folder has in it that can be continued; unfinished ones are named otherwise."""


def supervise(count: int, command: Sequence[str], *, timeout: float, folder: Path | None = None) -> int:
    """Run a command in `count` processes that are workers of one run, and return its exit code.

    Worker 0 writes to the terminal, the others write nowhere. Interrupts are passed on once to every
    worker, which has nearly `timeout` seconds to end in order; after a second one they are ended. Otherwise a worker
    that is killed, fails or does not answer ends all others, and one line on stderr says which and why. No worker
    outlives this process. To be called in the main thread.

    Args:
        count: how many.
        command: the program and its arguments; it calls `this_worker`.
        timeout: seconds within which a run ends whose workers wait for one that hangs; for each other they must wait
            no longer than `Deadlines.waiting`.
        folder: what the run writes, to be named for resuming once there is a checkpoint in it.

    Raises:
        ValueError: for a count or timeout that is not positive.
        OSError: when a process cannot be started.
    """
    if count < 1 or timeout <= 0:
        raise ValueError(f"workers and timeout must be positive, got {count} and {timeout:g}")
    _open_standard_streams()
    workers: list[LocalWorker] = []
    deadlines = Deadlines(timeout)
    with TemporaryDirectory(prefix="surmin-") as scratch, _signals_received() as received:
        environment = _environment(count, Path(scratch) / "rendezvous")
        try:
            for rank in range(count):
                workers.append(LocalWorker(rank, command, environment))
            verdict = _watch(workers, received, deadlines)
        finally:
            _end(workers, deadlines.termination)
    _say(verdict, folder)
    return verdict.code


def _open_standard_streams() -> None:
    """Where one is closed nothing else may take its number, which workers would take for it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _environment(count: int, rendezvous: Path) -> dict[str, str]:
    """Torchrun's, but for the port: a file cannot be taken by another program meanwhile."""
    return {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        RENDEZVOUS_VARIABLE: f"file://{rendezvous}",  # torch does not decode what is quoted
    }


@contextmanager
def _signals_received() -> Iterator[list[int]]:
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, receive) for number in interrupts()}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _watch(workers: Sequence[LocalWorker], received: Sequence[int], deadlines: Deadlines) -> Verdict:
    """Wait until all have ended, or one at least is at fault and the rest had time to say so."""
    states: list[State] = []
    seen, deadline = 0, float("inf")
    while True:
        interrupts = received[seen:]
        for number, worker in product(interrupts, workers):
            worker.signal(number)
        latest = [worker.state() for worker in workers]
        changed = [state for state in latest if state not in states]
        if changed or interrupts:
            states = [state for state in states if state in latest] + changed
            seen += len(interrupts)
            deadline = min(deadline, time.monotonic() + patience(states, seen, deadlines))
        if time.monotonic() > deadline or all(state.code is not None for state in states):
            return judge(states, seen > 0, deadlines.waiting)
        time.sleep(INTERVAL)


def _end(workers: Sequence[LocalWorker], seconds: float) -> None:
    for worker in workers:
        worker.signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.end(max(0.0, deadline - time.monotonic()))


def _say(verdict: Verdict, folder: Path | None) -> None:
    if verdict.message:
        can_continue = verdict.resumable and folder is not None and any(any(folder.glob(name)) for name in CHECKPOINTS)
        advice = f"; continue with --resume {folder}" if can_continue else ""
        print(f"surmin: {verdict.message}{advice}", file=sys.stderr)
