"""Gradient steps under other schedules than the recorded one: the same work in another order.

The recorded schedule is `posted`: GPipe's order, with every receive posted long before its message. `gpipe` and `1f1b`
are the orders of `torch.distributed.pipelining`, which post a receive when they need it; over gloo a message then waits
for the word that it was posted. `zero-bubble` is only modelled (torch's does not work with this library's autograd
functions): ZB-H1 of Qi et al. (2024), where a stage's weight gradient is deferred into the bubbles, with receives
posted ahead, which is the best case.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from surmin.simulation.operations import Flush, Hear, Operation, Post, Program, Receive, Send, Tell, Work

WEIGHT_SHARE = 0.5
"""Share of a backward pass for the weights' gradient; the rest is for the gradient in the stage's input."""


_STEPS = {"forward": 1, "gradient": -1}


@dataclass(frozen=True)
class GradientStep:
    """What one worker does in a recorded gradient step.

    Attributes:
        before: everything before the first micro-batch is received or begun.
        forward: seconds for each micro-batch.
        backward: seconds for each micro-batch.
        after: everything after the last micro-batch was sent on.
        sent: bytes of a sent message, by wave; none for a wave that ends here.
        received: bytes of a received message, by wave; none for a wave that begins here.
    """

    before: Program
    forward: list[float]
    backward: list[float]
    after: Program
    sent: Mapping[str, int]
    received: Mapping[str, int]

    @classmethod
    def of(cls, program: Program) -> "GradientStep":
        """Take a program apart; work between messages that belongs to no micro-batch goes to the previous one.

        What the others tell is heard before a step.

        Raises:
            ValueError: if it is not one forward and one backward wave.
        """
        kept = [number for number, operation in enumerate(program) if _is_of_wave(operation)]
        first, last = (kept[0], kept[-1]) if kept else (0, 0)
        seconds: dict[tuple[str, int], float] = {}
        key: tuple[str, int] | None = None
        sent: dict[str, int] = {}
        received: dict[str, int] = {}
        before, loose = program[:first], 0.0
        for operation in program[first : last + 1]:
            if isinstance(operation, Work):
                if operation.letter in ("F", "B") and operation.microbatch is not None:
                    key = operation.letter, operation.microbatch
                if key is None:
                    loose += operation.seconds
                else:
                    seconds[key] = seconds.get(key, 0.0) + operation.seconds
            elif isinstance(operation, Send | Receive):
                (sent if isinstance(operation, Send) else received)[operation.wave] = operation.bytes
        count = len([letter for letter, _ in seconds if letter == "F"])
        if not count or set(seconds) != {(letter, number) for letter in "FB" for number in range(count)}:
            raise ValueError("only a round of one forward and one backward wave can go by another schedule")
        forward, backward = ([seconds[letter, number] for number in range(count)] for letter in "FB")
        heard = [Hear()] if any(isinstance(operation, Tell) for operation in before) else []
        before = [operation for operation in [*before, Work(loose)] if not isinstance(operation, Hear)]
        return cls([*before, *heard], forward, backward, program[last + 1 :], sent, received)


def reorder(programs: Sequence[Program], schedule: str) -> list[Program]:
    """A recorded gradient step of all workers by another schedule.

    Args:
        programs: by worker, as recorded.
        schedule: posted, gpipe, 1f1b or zero-bubble.

    Raises:
        ValueError: for an unknown schedule, a round that is not a gradient step, or too few micro-batches for 1F1B.
    """
    if schedule == "posted":
        return list(programs)
    if schedule not in _ORDERS:
        raise ValueError(f"unknown schedule {schedule!r}: choose one of posted, {', '.join(_ORDERS)}")
    steps = [GradientStep.of(program) for program in programs]
    count = len(steps[0].forward)
    if schedule == "1f1b" and count < len(steps):
        raise ValueError(f"1F1B needs at least as many micro-batches as workers, got {count} for {len(steps)}")
    late = schedule != "zero-bubble"
    return [
        [*step.before, *_ORDERS[schedule](_Place(step, place, len(steps), late)), *step.after]
        for place, step in enumerate(steps)
    ]


@dataclass(frozen=True)
class _Place:
    """A worker's step, and what its parts are at this place in the pipe."""

    step: GradientStep
    place: int
    workers: int
    late: bool

    @property
    def count(self) -> int:
        return len(self.step.forward)

    def receive(self, wave: str) -> list[Operation]:
        """Post, and wait."""
        return [*self.post(wave), *self.wait(wave)]

    def post(self, wave: str) -> list[Operation]:
        return [Post(-_STEPS[wave], wave)] if self.late and wave in self.step.received else []

    def wait(self, wave: str) -> list[Operation]:
        size = self.step.received.get(wave)
        return [] if size is None else [Receive(-_STEPS[wave], wave, size)]

    def send(self, wave: str) -> list[Operation]:
        size = self.step.sent.get(wave)
        return [] if size is None else [Send(_STEPS[wave], wave, size, self.late)]

    def flush(self, wave: str) -> list[Operation]:
        return [Flush(_STEPS[wave], wave)] if self.late and wave in self.step.sent else []

    def forward(self, number: int) -> Work:
        return Work(self.step.forward[number], "F", number)

    def backward(self, number: int, share: float = 1.0) -> Work:
        return Work(share * self.step.backward[number], "B", number)


def _gpipe(at: _Place) -> Iterable[Operation]:
    """All forward, then all backward; sends are waited for at the end of each wave."""
    for wave, work in (("forward", at.forward), ("gradient", at.backward)):
        for number in range(at.count):
            yield from (*at.receive(wave), work(number), *at.send(wave))
        for _ in range(at.count):
            yield from at.flush(wave)


def _one_forward_one_backward(at: _Place) -> Iterable[Operation]:
    """torch's 1F1B: what a worker sends after one pass goes with the receive for the next, and it waits for both."""
    warm = min(at.count, at.workers - at.place)
    for number in range(warm):
        yield from (*at.receive("forward"), at.forward(number))
        if number:
            yield from at.flush("forward")
        if number < warm - 1:
            yield from at.send("forward")
    forwards, backwards = warm, 0
    while True:
        yield from _fused(at, "forward", "gradient")
        yield at.backward(backwards)
        backwards += 1
        if forwards == at.count:
            break
        yield from _fused(at, "gradient", "forward")
        yield at.forward(forwards)
        forwards += 1
    yield from at.send("gradient")
    for number in range(backwards, at.count):
        yield from (*at.receive("gradient"), at.backward(number), *at.flush("gradient"), *at.send("gradient"))
    yield from at.flush("gradient")


def _fused(at: _Place, sent: str, received: str) -> Iterable[Operation]:
    yield from at.send(sent)
    yield from at.post(received)
    yield from at.flush(sent)
    yield from at.wait(received)


def _zero_bubble(at: _Place) -> Iterable[Operation]:
    """ZB-H1: as many forward passes ahead as 1F1B, and a worker's weights as many passes behind as its place."""
    warm = min(at.count, at.workers - at.place)
    for number in range(warm):
        yield from (*at.receive("forward"), at.forward(number), *at.send("forward"))
    weights = 0
    for number in range(at.count):
        yield from (*at.receive("gradient"), at.backward(number, 1 - WEIGHT_SHARE), *at.send("gradient"))
        if number >= at.place:
            yield at.backward(weights, WEIGHT_SHARE)
            weights += 1
        if warm + number < at.count:
            yield from (*at.receive("forward"), at.forward(warm + number), *at.send("forward"))
    for number in range(weights, at.count):
        yield at.backward(number, WEIGHT_SHARE)


_ORDERS: dict[str, Callable[[_Place], Iterable[Operation]]] = {
    "gpipe": _gpipe,
    "1f1b": _one_forward_one_backward,
    "zero-bubble": _zero_bubble,
}


def _is_of_wave(operation: Operation) -> bool:
    if isinstance(operation, Work):
        return operation.letter in ("F", "B") and operation.microbatch is not None
    return isinstance(operation, Send | Receive) and operation.wave in ("forward", "gradient")
