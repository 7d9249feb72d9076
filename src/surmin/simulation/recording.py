"""Running a method on all workers of a network in one process, and recording what each of them does.

Every worker is a thread with its own pipeline, as the worker of a real run is a process; only one of them runs at a
time. Computing is timed by the thread's own CPU time, so that neither the others nor the rest of the machine count.
The operations of a round are recorded, not when they happened: links of any kind can be put between them.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.pipeline.links import Kind
from surmin.pipeline.process_links import UPWARDS
from surmin.pipeline.tracing import Clock, Letter, synchronized_clock
from surmin.pipeline.traffic import Traffic
from surmin.simulation.operations import Hear, Operation, Program, Receive, Send, Tell, Total, Work
from surmin.simulation.threads import ThreadExchange


class Recorder:
    """What one worker does; a tracer of its pipeline, told about messages by its links."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = 0
        self._doing: list[tuple[str, int | None]] = [("", None)]
        self.program: Program = []

    def start(self) -> None:
        """Start a round, in the calling thread."""
        self.program = []
        self.resume()

    def resume(self) -> None:
        """Computing begins now."""
        self._since = self._clock()

    def note(self, operation: Operation | None = None) -> None:
        """Record what was computed since `resume`, then an operation; call `resume` when that is over."""
        self.program.append(Work((self._clock() - self._since) * 1e-9, *self._doing[-1]))
        if operation is not None:
            self.program.append(operation)

    def span(self, letter: Letter, microbatch: int | None = None) -> AbstractContextManager[None]:
        """Separate work; waiting does not count as work."""
        return nullcontext() if letter in "WA" else self._work(letter, microbatch)

    @contextmanager
    def _work(self, letter: Letter, microbatch: int | None) -> Iterator[None]:
        self.note()
        self._doing.append((letter, microbatch))
        self.resume()
        try:
            yield
        finally:
            self.note()
            self._doing.pop()
            self.resume()


class RecordedLinks:
    """`Links` of one worker to the others in the same process."""

    def __init__(self, place: int, blocks: dict[str, list[int]], exchange: ThreadExchange, recorder: Recorder) -> None:
        self._place = place
        self._blocks = blocks
        self._exchange = exchange
        self._recorder = recorder
        self._unheard: set[int] = set()
        self._totals = 0
        self.is_first, self.is_last = place == 0, place == exchange.workers - 1

    def trainable_blocks(self, blocks: Literal["layer", "stage"]) -> tuple[int, int]:
        """Counted when the network was cut."""
        return sum(self._blocks[blocks][: self._place]), sum(self._blocks[blocks])

    def stages_beyond(self) -> tuple[int, int]:
        """Every worker has one."""
        return self._place, self._exchange.workers - 1 - self._place

    def prepare(self, kind: Kind, count: int) -> None:
        """Receives are posted a round ahead, which costs nothing; others are heard as in `ProcessLinks`."""
        self._hear(_step(kind))

    def send(self, kind: Kind, message: Message) -> None:
        """Count its bytes and leave it for the next worker."""
        step = _step(kind)
        self._recorder.note(Send(step, str(kind[0]), _size(message)))
        self._exchange.put(self._place, self._place + step, kind, message)
        self._recorder.resume()

    def receive(self, kind: Kind) -> Message:
        """Wait for it; the waiting is not recorded."""
        step = -_step(kind)
        self._recorder.note()
        message = self._exchange.take(self._place + step, self._place, kind)
        self._recorder.program.append(Receive(step, str(kind[0]), _size(message)))
        self._recorder.resume()
        return message

    def compare(self, description: str, complaint: ValueError | TypeError | None, *, wait: bool) -> None:
        """All workers are given the same batch here."""
        if complaint is not None:
            raise complaint
        self._note(Tell())
        self._unheard = {-1, 0, 1}
        if wait:
            self._hear(0)

    def total(self, values: Tensor, traffic: Traffic) -> list[float]:
        """Counted like workers count what each of them sends for it."""
        self._hear(0)
        self._recorder.note(Total(values.nbytes))
        for _ in range(self._exchange.workers - 1 if self.is_last else 1):
            traffic.send((values,))
        self._totals += 1
        summed = self._exchange.total(self._totals - 1, self._place, values)
        self._recorder.resume()
        return summed

    def break_off(self, error: BaseException) -> None:
        """An error in one worker ends them all."""

    def _hear(self, step: int) -> None:
        """Hear those that a wave comes through, and all before a sum."""
        if step in self._unheard:
            self._unheard -= {step} if step else {-1, 0, 1}
            self._note(Hear(step))

    def _note(self, operation: Operation) -> None:
        self._recorder.note(operation)
        self._recorder.resume()


def worker_clock(device: torch.device) -> Clock:
    """The calling thread's CPU time; on CUDA the host's clock after the device's queue, in ns."""
    return synchronized_clock(device) if device.type == "cuda" else time.thread_time_ns


def _size(message: Message) -> int:
    return sum(tensor.nbytes for tensor in message)


def _step(kind: Kind) -> int:
    return 1 if kind[0] in UPWARDS else -1
