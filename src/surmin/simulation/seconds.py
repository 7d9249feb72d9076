"""From recorded rounds to seconds: rounds of a kind, and how long they take over links."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surmin.simulation.operations import NO_OVERHEADS, Operation, Overheads, Program, Work, expand
from surmin.simulation.schedules import reorder
from surmin.simulation.sharing import Carrier, share_cores
from surmin.simulation.team import Recorded
from surmin.simulation.timing import replay, share_a_link_late
from surmin.simulation.wires import LinkKind, Time

LEAST_ON_LINE = 16
"""Number of workers from which each further one adds the same to every round."""


@dataclass(frozen=True)
class RoundKind:
    """Rounds in which every worker did the same operations and as much work, with their median times.

    Attributes:
        programs: by worker.
        count: number of such rounds.
    """

    programs: Sequence[Program]
    count: float

    def scheduled(self, schedule: str) -> "RoundKind":
        """The same gradient step by another schedule."""
        return replace(self, programs=reorder(self.programs, schedule))

    def stretched(self, workers: int) -> "RoundKind":
        """The same round on more workers: those between the first and the last are repeated.

        Raises:
            ValueError: if there are fewer than three, or more than requested.
        """
        have = len(self.programs)
        if not 3 <= have <= workers:
            raise ValueError(f"a round of {have} workers cannot be stretched to {workers}: record at least 3 of them")
        middle = [1 + place * (have - 2) // (workers - 2) for place in range(workers - 2)]
        return replace(self, programs=[self.programs[place] for place in (0, *middle, have - 1)])


@dataclass(frozen=True)
class Setting:
    """Where workers run.

    Attributes:
        links: between them, of one kind or (without `cores`) of several.
        overheads: of their messages.
        cores: cores that all of them share; None for a core each.
        packet: seconds that a packet costs the same machine on its way, if cores are shared.
    """

    links: LinkKind
    overheads: Overheads = NO_OVERHEADS
    cores: float | None = None
    packet: float = 0.0

    def end(self, programs: Sequence[Program]) -> Time:
        """When the last worker ends."""
        expanded = expand(programs, self.overheads)
        if self.cores is not None:
            return max(share_cores(expanded, self.links, self.cores, Carrier(self.packet, self.overheads.byte)))
        if share_a_link_late(expanded):
            ends = [max(share_cores(expanded, links, len(expanded))) for links in self.links.each()]
            return np.array(ends).reshape(np.shape(self.links.latency))
        return np.maximum.reduce(replay(expanded, self.links))

    def seconds(self, kinds: Sequence[RoundKind]) -> Time:
        """Seconds for all rounds, each as long as a second one takes right after one like it."""
        total: Time = 0.0
        for kind in kinds:
            twice = [[*program, *program] for program in kind.programs]
            total = total + kind.count * (self.end(twice) - self.end(kind.programs))
        return total


def on_many_workers(
    setting: Setting, kinds: Sequence[RoundKind], workers: int, schedule: str, microbatches: int
) -> Time:
    """Seconds of rounds stretched to any number of workers, by a schedule.

    With ever more of the same workers in the middle, the time of a round grows by the same amount for each: a wave of M
    micro-batches through workers that take p_i each takes Σ p_i + (M - 1) max p_i. So two numbers of workers, more than
    three times the number of micro-batches, are computed, and a line is drawn through them.

    Args:
        setting: where the workers run.
        kinds: recorded on at least three workers.
        workers: to stretch them to.
        schedule: of gradient steps, "posted" for all others.
        microbatches: of a round.
    """

    def seconds(count: int) -> Time:
        return setting.seconds([kind.stretched(count).scheduled(schedule) for kind in kinds])

    step = max((len(kind.programs) - 2 for kind in kinds), default=1)
    least = max(LEAST_ON_LINE, 3 * (microbatches + step))
    near = least + (workers - least) % step
    far = near + 2 * step
    if workers <= far:
        return seconds(workers)
    last, before = seconds(far), seconds(near)
    return last + (workers - far) * (last - before) / (far - near)


class Rounds:
    """Rounds sorted by what was done in them, and how much. Only the seconds of each one's work are kept."""

    def __init__(self) -> None:
        self.count = 0
        self._kinds: dict[Any, list[NDArray[np.float64]]] = {}

    def add(self, own: Recorded) -> None:
        """Count one more."""
        self.count += 1
        done = tuple(tuple(map(_timeless, program)) for program in own.programs)
        work = [operation.seconds for operation in chain(*own.programs) if isinstance(operation, Work)]
        self._kinds.setdefault((own.work, done), []).append(np.array(work))

    def kinds(self) -> list[RoundKind]:
        """The kinds found; the work of a kind lasts as long as in its median round."""
        return [
            RoundKind(_lasting(done, np.median(work, axis=0)), len(work)) for (_, done), work in self._kinds.items()
        ]


def group(recorded: Iterable[Recorded]) -> list[RoundKind]:
    """The kinds of some rounds."""
    rounds = Rounds()
    for own in recorded:
        rounds.add(own)
    return rounds.kinds()


def _timeless(operation: Operation) -> Operation:
    return operation._replace(seconds=0.0) if isinstance(operation, Work) else operation


def _lasting(programs: Iterable[Sequence[Operation]], seconds: Iterable[float]) -> list[Program]:
    """The same programs, with each piece of work taking its seconds."""
    times = map(float, seconds)
    return [[own._replace(seconds=next(times)) if isinstance(own, Work) else own for own in each] for each in programs]
