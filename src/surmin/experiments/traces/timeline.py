"""What the spans of all workers show together: who was busy, who waited, and whether the local phases overlapped."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from surmin.pipeline.tracing import Span

BUSY = frozenset("FBCU")
"""What counts as work: acceptance, a collective, is mostly waiting for the others."""

Interval = tuple[int, int]


@dataclass(frozen=True)
class Timeline:
    """The spans of one run: of one or more steps on workers 0, 1, ….

    Where spans overlap in a thread, the one that began last is what the thread was doing. A worker is busy while one of
    its threads is in F, B, C or U; shares are of the time from the first span's start to the last one's end.

    Raises:
        ValueError: if there are no spans.
    """

    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        if not self.spans:
            raise ValueError("a timeline needs at least one span")

    @classmethod
    def merge(cls, workers: Iterable[Iterable[Span]]) -> "Timeline":
        """The spans of several workers, in the order they began."""
        return cls(tuple(sorted((span for spans in workers for span in spans), key=_by_start)))

    @cached_property
    def workers(self) -> int:
        """Number of workers: one more than the highest rank."""
        return 1 + max(span.worker for span in self.spans)

    @cached_property
    def start(self) -> int:
        """When the first span began, ns."""
        return min(span.start for span in self.spans)

    @cached_property
    def end(self) -> int:
        """When the last span ended, ns."""
        return max(span.end for span in self.spans)

    @cached_property
    def pieces(self) -> tuple[Span, ...]:
        """The same spans without what others inside cover: in one thread they no longer overlap."""
        threads = groupby(sorted(sorted(self.spans, key=_by_start), key=_by_thread), _by_thread)
        return tuple(piece for _, spans in threads for piece in _cut(list(spans)))

    @cached_property
    def utilisation(self) -> tuple[float, ...]:
        """For every worker, the share of the time it was busy."""
        duration = max(1, self.end - self.start)
        busy = [_union(self.pieces, worker, BUSY) for worker in range(self.workers)]
        return tuple(sum(end - start for start, end in intervals) / duration for intervals in busy)

    @property
    def bubble(self) -> float:
        """The share of all workers' time in which they were not busy."""
        return 1 - sum(self.utilisation) / self.workers

    @property
    def local_overlap(self) -> float:
        """Of the time in which a worker was in U, the share in which two or more were; 0 if none was."""
        edges = sorted(
            edge
            for worker in range(self.workers)
            for start, end in _union(self.spans, worker, frozenset("U"))
            for edge in ((start, 1), (end, -1))
        )
        some = several = inside = before = 0
        for time, step in edges:
            some += (time - before) * (inside >= 1)
            several += (time - before) * (inside >= 2)
            inside, before = inside + step, time
        return several / some if some else 0.0


def theoretical_bubble(workers: int, microbatches: int) -> float:
    """Idle share of a pipeline of equally slow stages whose messages take no time: (K - 1) / (M + K - 1)."""
    return (workers - 1) / (microbatches + workers - 1)


def _by_start(span: Span) -> Interval:
    return span.start, -span.end


def _by_thread(span: Span) -> Interval:
    return span.worker, span.thread


def _cut(spans: Sequence[Span]) -> list[Span]:
    """The spans of one thread, in the order they began, without what later ones cover."""
    pieces: list[Span] = []
    running: list[Span] = []
    nexts = [*(span.start for span in spans[1:]), max(span.end for span in spans)]
    for span, following in zip(spans, nexts, strict=True):
        running.append(span)
        now = span.start
        while running and now < following:
            last = running[-1]
            until = min(last.end, following)
            if until > now:
                pieces.append(last._replace(start=now, end=until))
                now = until
            if last.end <= following:
                running.pop()
    return pieces


def _union(spans: Iterable[Span], worker: int, letters: Set[str]) -> list[Interval]:
    """When the worker was in one of these letters, as disjoint intervals."""
    intervals: list[Interval] = []
    for start, end in sorted(
        (span.start, span.end) for span in spans if span.worker == worker and span.letter in letters
    ):
        if intervals and start <= intervals[-1][1]:
            intervals[-1] = intervals[-1][0], max(end, intervals[-1][1])
        else:
            intervals.append((start, end))
    return intervals
