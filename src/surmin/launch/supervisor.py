"""Starting workers on this machine and watching over them: if one fails, all end, and the one at fault is named."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from surmin.launch.deadlines import Deadlines
from surmin.launch.interrupts import handled_interrupts
from surmin.launch.local_worker import LocalWorker
from surmin.launch.verdict import State, Verdict, judge, patience
from surmin.launch.worker import RENDEZVOUS_VARIABLE

INTERVAL = 0.05
CHECKPOINTS = ("checkpoint/round-*[0-9]", "checkpoint/round-*.replaced")
"""Folders of a run that can be continued from; unfinished ones have other names."""


def supervise(count: int, command: Sequence[str], *, timeout: float, folder: Path | None = None) -> int:
    """Run a command in `count` processes that are workers of one run, and return its exit code.

    Worker 0 writes to the terminal, the others write nowhere. An interrupt is passed on once to every worker, which
    then has nearly `timeout` seconds to end in an orderly way; after a second one they are ended. Otherwise a worker
    that is killed, fails or does not answer ends all others, and one line on stderr says which and why. No worker
    outlives this process. Call it in the main thread.

    Args:
        count: number of workers.
        command: the program and its arguments; it calls `this_worker`.
        timeout: seconds within which a run ends if its workers wait for one that hangs; they must wait for each other
            no longer than `Deadlines.waiting`.
        folder: the run's folder, named for resuming if it has a checkpoint.

    Raises:
        ValueError: if count or timeout is not positive.
        OSError: if a process cannot be started.
    """
    if count < 1 or timeout <= 0:
        raise ValueError(f"workers and timeout must be positive, got {count} and {timeout:g}")
    _open_standard_streams()
    workers: list[LocalWorker] = []
    received: list[int] = []
    deadlines = Deadlines(timeout)
    with TemporaryDirectory(prefix="surmin-") as scratch, handled_interrupts(received.append):
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
    """Occupy closed standard streams, whose numbers something else could take, which workers would mistake for them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _environment(count: int, rendezvous: Path) -> dict[str, str]:
    """As torchrun's, except for the port: a file cannot be taken by another program meanwhile."""
    return {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        RENDEZVOUS_VARIABLE: str(rendezvous),
    }


def _watch(workers: Sequence[LocalWorker], received: Sequence[int], deadlines: Deadlines) -> Verdict:
    """Wait until all have ended, or at least one is at fault and the rest have had time to say so."""
    states: list[State] = []
    seen, deadline = 0, float("inf")
    while True:
        new = received[seen:]
        for number, worker in product(new, workers):
            worker.signal(number)
        latest = [worker.state() for worker in workers]
        changed = [state for state in latest if state not in states]
        if changed or new:
            states = [state for state in states if state in latest] + changed
            seen += len(new)
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
        with suppress(OSError):  # the terminal may be gone
            print(f"surmin: {verdict.message}{advice}", file=sys.stderr)
