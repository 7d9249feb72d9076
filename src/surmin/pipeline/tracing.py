"""Tracing what a worker did when. A pipeline is given a `SpanRecorder`, or the `NULL_TRACER`, which records nothing."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

import torch

Letter = Literal["F", "B", "C", "U", "A", "W"]
LETTERS: dict[Letter, str] = {
    "F": "forward",
    "B": "backward",
    "C": "curvature",
    "U": "local updates",
    "A": "acceptance",
    "W": "waiting",
}
"""What a worker can be doing; acceptance is the collective alone, waiting is being blocked on a receive.

Under torch's schedules, which do their own receives, waiting is all of a step except the F and B spans inside it.
"""
Clock = Callable[[], int]


class Span(NamedTuple):
    """One thing a worker did. Spans of one thread may lie inside each other.

    Attributes:
        letter: what.
        worker: its rank.
        start: ns.
        end: ns.
        microbatch: its number, if the work was for one micro-batch.
        thread: of the worker, numbered in the order in which threads first recorded something.
    """

    letter: Letter
    worker: int
    start: int
    end: int
    microbatch: int | None = None
    thread: int = 0


class Tracer(Protocol):
    """What pipelines report their work to."""

    def span(self, letter: Letter, microbatch: int | None = None) -> AbstractContextManager[None]:
        """A context entered when the work begins and left when it ends."""


class NullTracer:
    """Records nothing."""

    _nothing = nullcontext()

    def span(self, letter: Letter, microbatch: int | None = None) -> AbstractContextManager[None]:
        """A context that does nothing."""
        return self._nothing


NULL_TRACER = NullTracer()


class SpanRecorder:
    """Records the spans of one worker, also those ended by an exception.

    Args:
        worker: its rank.
        clock: ns. The default is common to the processes of one machine. On CUDA it gives the host's times: when work
            was put in the device's queue, and how long that blocked; `synchronized_clock` gives the device's.
        origin: what the clock shows at the common time 0. Workers on several machines read it as they leave a barrier;
            their times then differ by what that barrier takes to let them all go, about one latency of the links.
    """

    def __init__(self, worker: int, *, clock: Clock = time.perf_counter_ns, origin: int = 0) -> None:
        self._worker = worker
        self._clock = clock
        self._origin = origin
        self._ended: list[_Ended] = []
        self._threads: dict[int, int] = {}

    def span(self, letter: Letter, microbatch: int | None = None) -> AbstractContextManager[None]:
        """A context whose time is recorded when it is left."""
        return _OpenSpan(self._ended, self._clock, letter, microbatch)

    def take(self) -> list[Span]:
        """The spans that have ended since the last call, in the order they ended; they are not kept."""
        ended = self._ended[:]
        del self._ended[: len(ended)]
        return [
            Span(
                letter, self._worker, start - self._origin, end - self._origin, microbatch,
                self._threads.setdefault(thread, len(self._threads)),
            )
            for letter, start, end, microbatch, thread in ended
        ]  # fmt: skip


def synchronized_clock(device: torch.device) -> Clock:
    """A clock that first waits for the device's queue, so that spans last as long as the device's work.

    Host and device then no longer run at the same time, nor do the device's streams, so a traced round takes longer.
    """
    if device.type != "cuda":
        return time.perf_counter_ns

    def clock() -> int:
        torch.cuda.synchronize(device)
        return time.perf_counter_ns()

    return clock


_Ended = tuple[Letter, int, int, int | None, int]


class _OpenSpan:
    """A span that may be running: as little as possible happens here."""

    __slots__ = ("_clock", "_ended", "_letter", "_microbatch", "_start")

    def __init__(self, ended: list[_Ended], clock: Clock, letter: Letter, microbatch: int | None) -> None:
        self._ended = ended
        self._clock = clock
        self._letter = letter
        self._microbatch = microbatch

    def __enter__(self) -> None:
        self._start = self._clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = self._clock()
        self._ended.append((self._letter, self._start, end, self._microbatch, threading.get_ident()))
