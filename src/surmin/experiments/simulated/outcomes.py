"""Seconds that measured runs would take over links of every kind, and which method wins where."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from surmin.experiments.configs.lists import counts, names, numbers
from surmin.experiments.configs.simulate import GRADIENT_STEPS, SimulateConfig, can_go_by
from surmin.experiments.simulated.runs import LEAST_STRETCHED, MeasuredRun
from surmin.simulation.operations import Overheads
from surmin.simulation.seconds import Setting, on_many_workers
from surmin.simulation.wires import LinkKind, Time

Place = tuple[int, float, float]
"""Workers, latency in seconds and rate in bits per second."""


@dataclass(frozen=True)
class Outcome:
    """Seconds of one run by one schedule over links of one kind.

    Attributes:
        run: what was trained.
        schedule: of its gradient steps; "posted" for methods with others.
        stages: workers that it is simulated on.
        latency: seconds, one way.
        rate: bits per second.
        seconds: to the target loss.
        messages: of all workers.
        bytes: of all workers.
    """

    run: MeasuredRun
    schedule: str
    stages: int
    latency: float
    rate: float
    seconds: float
    messages: float
    bytes: float

    @property
    def place(self) -> Place:
        """Where it was simulated."""
        return self.stages, self.latency, self.rate

    @property
    def is_stretched(self) -> bool:
        """Whether there are more workers than were measured."""
        return self.stages > self.run.workers

    @property
    def label(self) -> str:
        """Method, schedule, micro-batches, inner steps and batch size in a few words."""
        schedule = f", {self.schedule}" if self.run.method in GRADIENT_STEPS else ""
        inner = f", N {self.run.inner_steps}" if self.run.inner_steps else ""
        batch = f", batch {self.run.batch_size}" if self.run.batch_size else ""
        return f"{self.run.method}{schedule}, M {self.run.microbatches}{inner}{batch}"


@dataclass(frozen=True)
class LinkCell:
    """Which method is fastest over one kind of links, on so many workers.

    Attributes:
        stages: workers.
        latency: seconds, one way.
        rate: bits per second.
        own: the best setting of the method of interest; None if it did not reach the loss.
        other: the best setting of the others; None if none did.
    """

    stages: int
    latency: float
    rate: float
    own: Outcome | None
    other: Outcome | None

    @property
    def ratio(self) -> float:
        """The method's seconds over the best other's: below 1 it wins. NaN if neither exists."""
        if self.own is None:
            return math.nan if self.other is None else math.inf
        return 0.0 if self.other is None else self.own.seconds / self.other.seconds


def outcomes(config: SimulateConfig, run: MeasuredRun, overheads: Overheads) -> Iterator[Outcome]:
    """A run by every schedule, on every number of workers it can stand for, over every kind of links."""
    measured = [count for count in counts("stages", config.stages) if count == run.workers]
    stretched = [count for count in counts("stages", config.stages) if count > run.workers >= LEAST_STRETCHED]
    schedules = names(config.schedules) if run.method in GRADIENT_STEPS else ["posted"]
    for stages, schedule in product([*measured, *stretched], schedules):
        if can_go_by(schedule, run.microbatches, stages):
            yield from _outcomes(config, run, stages, schedule, overheads)


def _outcomes(
    config: SimulateConfig, run: MeasuredRun, stages: int, schedule: str, overheads: Overheads
) -> Iterator[Outcome]:
    cells = cells_of(config)
    links = [LinkKind(latency, rate) for latency, rate in cells]

    def seconds_over(links: LinkKind) -> Time:
        setting = Setting(links, overheads, config.cores)
        if stages > run.workers:
            return on_many_workers(setting, run.trained.kinds, stages, schedule, run.microbatches)
        return setting.seconds([kind.scheduled(schedule) for kind in run.trained.kinds])

    seconds = [seconds_over(kind) for kind in links] if config.cores else list(seconds_over(LinkKind.all_of(links)))
    more = (stages - 1) / max(1, run.workers - 1)
    for (latency, rate), time in zip(cells, seconds, strict=True):
        yield Outcome(
            run, schedule, stages, latency, rate, float(time), run.trained.messages * more, run.trained.bytes * more
        )


def cells_of(config: SimulateConfig) -> list[tuple[float, float]]:
    """Latency in seconds and rate in bits per second of every kind of links."""
    latencies = numbers("latencies", config.latencies, zero_allowed=True)
    return [(latency * 1e-3, rate * 1e6) for rate in numbers("rates", config.rates) for latency in latencies]


def compare(config: SimulateConfig, found: Sequence[Outcome]) -> list[LinkCell]:
    """The first method against the best of the others, for every number of workers and every kind of links.

    If a number of workers was measured, runs stretched to it do not count.
    """
    own = config.method_names[0]
    found_at = by_place(eligible(found))
    cells = []
    for stages, (latency, rate) in product(counts("stages", config.stages), cells_of(config)):
        here = found_at.get((stages, latency, rate), [])
        best = {
            is_own: min(
                (item for item in here if (item.run.method == own) == is_own),
                key=lambda item: item.seconds, default=None,
            )
            for is_own in (True, False)
        }  # fmt: skip
        cells.append(LinkCell(stages, latency, rate, best[True], best[False]))
    return cells


def eligible(found: Sequence[Outcome]) -> list[Outcome]:
    """What was measured on so many workers, or else stretched from the largest number measured."""
    largest: dict[int, int] = {}
    for item in found:
        largest[item.stages] = max(largest.get(item.stages, 0), item.run.workers)
    return [item for item in found if item.run.workers == largest[item.stages]]


def by_place(found: Sequence[Outcome]) -> dict[Place, list[Outcome]]:
    """What was found for every number of workers and kind of links."""
    places: dict[Place, list[Outcome]] = {}
    for item in found:
        places.setdefault(item.place, []).append(item)
    return places
