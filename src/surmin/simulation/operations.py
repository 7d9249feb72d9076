"""What workers do in a round, as needed by a model of their time: compute, send, and wait for what others send."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from surmin.pipeline.comparison import STATUS_BYTES


class Work(NamedTuple):
    """Compute for so many seconds alone on a core; the letter says at what, as in traces, and for which micro-batch."""

    seconds: float
    letter: str = ""
    microbatch: int | None = None


class Send(NamedTuple):
    """A message to the worker `step` places further. A late one leaves once the other end has said that it waits."""

    step: int
    wave: str
    bytes: int
    late: bool = False


class Post(NamedTuple):
    """Tell the worker `step` places further that a late message of the wave can come; nothing is waited for."""

    step: int
    wave: str


class Receive(NamedTuple):
    """Wait for the next message of the wave from the worker `step` places further."""

    step: int
    wave: str
    bytes: int


class Flush(NamedTuple):
    """Wait until the oldest late message not yet waited for, to the worker `step` places further, has left."""

    step: int
    wave: str


class Tell(NamedTuple):
    """One small message to every other worker; nothing is waited for."""


class Hear(NamedTuple):
    """Wait for the small messages of the workers that a wave comes through, `step` places further each; 0 for all."""

    step: int = 0


class Total(NamedTuple):
    """A sum over all workers: up the pipe, and from the last worker directly to all."""

    bytes: int


Operation = Work | Send | Post | Receive | Flush | Tell | Hear | Total
Program = list[Operation]
"""One worker's operations in the order it does them."""


@dataclass(frozen=True)
class Overheads:
    """Seconds of a worker's own CPU for a message, at each of its two ends.

    The sender writes all bytes before going on. The receiver reads them as they come, beside whatever it is doing: a
    program therefore has only the cost per message, and `share_cores` accounts for the bytes.

    Attributes:
        message: for any message.
        byte: for every byte of it.
    """

    message: float = 0.0
    byte: float = 0.0

    def of(self, size: int) -> float:
        """For a message of so many bytes."""
        return self.message + self.byte * size


NO_OVERHEADS = Overheads()


def expand(programs: Sequence[Program], overheads: Overheads) -> list[Program]:
    """Programs by worker, with sums replaced by their messages, and with the work that messages cost."""
    return [_expanded(program, place, len(programs), overheads) for place, program in enumerate(programs)]


def _expanded(program: Program, place: int, count: int, overheads: Overheads) -> Program:
    expanded: Program = []
    for plain in program:
        for operation in _messages(plain, place, count) if isinstance(plain, Total) else [plain]:
            if isinstance(operation, Send):
                expanded.append(Work(overheads.of(operation.bytes)))
            elif isinstance(operation, Tell):
                expanded.append(Work((count - 1) * overheads.of(STATUS_BYTES)))
            expanded.append(operation)
            if isinstance(operation, Receive):
                expanded.append(Work(overheads.message))
            elif isinstance(operation, Hear):
                expanded.append(Work(told_by(operation, place, count) * overheads.message))
    return _merged(expanded)


def told_by(hear: Hear, place: int, count: int) -> int:
    """How many other workers it waits for."""
    return count - 1 if hear.step == 0 else place if hear.step > 0 else count - 1 - place


def _merged(program: Program) -> Program:
    """Consecutive work merged into one piece; what it is for no longer matters."""
    merged: Program = []
    for operation in program:
        if isinstance(operation, Work) and merged and isinstance(merged[-1], Work):
            merged[-1] = Work(merged[-1].seconds + operation.seconds)
        elif not isinstance(operation, Work) or operation.seconds > 0:
            merged.append(operation)
    return merged


def _messages(total: Total, place: int, count: int) -> list[Operation]:
    below: list[Operation] = [Receive(-1, "total", total.bytes)] if place else []
    if place == count - 1:
        return [*below, *(Send(other - place, "total", total.bytes) for other in range(place))]
    return [*below, Send(1, "total", total.bytes), Receive(count - 1 - place, "total", total.bytes)]
