"""Workers that are threads of one process, one of which runs at a time, and how they leave messages for each other."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.pipeline.links import Kind

Result = TypeVar("Result")
PATIENCE = 600.0
"""Seconds after which a worker's wait for another is treated as an error in the program."""


class ThreadExchange:
    """Where the workers of one process leave messages for each other; one that waits lets another run."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._turn = threading.Condition()
        self._boxes: dict[tuple[int, int, Kind], deque[Message]] = defaultdict(deque)
        self._sums: dict[int, dict[int, Tensor]] = defaultdict(dict)
        self._failed = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context that one worker at a time is in; if one fails, so do those that wait."""
        with self._turn:
            try:
                yield
            except BaseException:
                self._failed = True
                raise
            finally:
                self._turn.notify_all()

    def put(self, source: int, target: int, kind: Kind, message: Message) -> None:
        """Leave a copy of a message, as what arrives elsewhere is one."""
        self._boxes[source, target, kind].append(tuple(tensor.detach().clone() for tensor in message))
        self._turn.notify_all()

    def take(self, source: int, target: int, kind: Kind) -> Message:
        """The next message, once it is there."""
        box = self._boxes[source, target, kind]
        self._wait(lambda: bool(box))
        return box.popleft()

    def total(self, number: int, place: int, values: Tensor) -> list[float]:
        """The sum over workers, in the order of their places, once all have called with the same number."""
        shares = self._sums[number]
        shares[place] = values.detach().cpu()
        self._turn.notify_all()
        self._wait(lambda: len(shares) == self.workers)
        self._sums.pop(number, None)
        return [float(value) for value in sum((shares[own] for own in range(1, self.workers)), shares[0]).tolist()]

    def _wait(self, is_there: Callable[[], bool]) -> None:
        if not self._turn.wait_for(lambda: self._failed or is_there(), PATIENCE):
            raise RuntimeError("the workers wait for each other for ever")
        if self._failed and not is_there():
            raise InterruptedByOtherError


class InterruptedByOtherError(RuntimeError):
    """Another worker has failed."""


def run_together(exchange: ThreadExchange, workers: Sequence[Callable[[], Result]]) -> list[Result]:
    """What every worker returns; each has its own thread, and only one runs at a time.

    Raises:
        Exception: the error of the first worker that failed.
    """

    def run(worker: Callable[[], Result]) -> Result:
        with exchange.running():
            return worker()

    with ThreadPoolExecutor(len(workers)) as threads:
        futures = [threads.submit(run, worker) for worker in workers]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, InterruptedByOtherError)):
        raise error
    return [future.result() for future in futures]
