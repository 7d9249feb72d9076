"""What a comparison found: the learning rates chosen, and the summary of each method."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surmin.experiments.comparisons.completing import Result
from surmin.experiments.comparisons.grid import PlannedRun
from surmin.experiments.files import write_table
from surmin.experiments.runs.metrics import Row, figures_of

CHOICE_RULE = (
    "Where several learning rates were tried, the one shown is the one that reached the target loss in the fewest "
    "rounds, else the one with the lowest final loss; both as medians over seeds. Every run tried is listed."
)
CompareResult = Result[PlannedRun]


@dataclass(frozen=True)
class Spread:
    """Median and extremes over seeds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figure: str, rows: Sequence[Row | None]) -> "Spread":
        """Of a figure over rows, one per seed; if missing, it counts as the worst possible."""
        worst = -math.inf if figure == "test_accuracy" else math.inf
        values = [getattr(row, figure, None) for row in rows]
        numbers = [worst if value is None else float(value) for value in values]
        return cls(statistics.median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True)
class Summary:
    """One method at its chosen learning rate: the figures of the last rows, over seeds."""

    method: str
    lr: float | None
    results: Sequence[CompareResult]
    figures: Mapping[str, Spread]

    @property
    def label(self) -> str:
        """The method and its learning rate."""
        return self.method if self.lr is None else f"{self.method}, lr {self.lr:g}"

    @property
    def statuses(self) -> str:
        """How the runs ended, as worded by `count_statuses`."""
        return count_statuses(result.status for result in self.results)


def by_setting(results: Sequence[CompareResult]) -> dict[tuple[str, float | None], list[CompareResult]]:
    """Results of the same method and learning rate together, in order."""
    groups: dict[tuple[str, float | None], list[CompareResult]] = {}
    for result in results:
        groups.setdefault(result.run.setting, []).append(result)
    return groups


def choose(results: Sequence[CompareResult]) -> dict[str, list[CompareResult]]:
    """For every method, the runs at its best learning rate, by `CHOICE_RULE`."""
    best: dict[str, list[CompareResult]] = {}
    for (method, _), group in by_setting(results).items():
        if method not in best or _quality(group) < _quality(best[method]):
            best[method] = group
    return best


def summarize(results: Sequence[CompareResult]) -> list[Summary]:
    """One summary per method, in the order of the results."""
    figures = known_figures(results)
    return [
        Summary(
            method,
            group[0].run.lr,
            group,
            {name: Spread.of(name, [result.last for result in group]) for name in figures},
        )
        for method, group in choose(results).items()
    ]


def known_figures(results: Sequence[CompareResult]) -> Sequence[str]:
    """What the rows of a comparison have, as `figures_of` says it."""
    return figures_of(row for result in results for row in result.rows)


def count_seeds(counts: Iterable[int]) -> str:
    """How many seeds medians are over: "3 seeds", "up to 3 seeds" if counts differ; empty if all are one."""
    found = set(counts)
    if found == {1}:
        return ""
    return f"{'up to ' if len(found) > 1 else ''}{max(found)} seeds"


def count_statuses(statuses: Iterable[str]) -> str:
    """How runs ended, for instance "2 reached, 1 diverged"; one word if all ended alike."""
    counts = Counter(statuses)
    return ", ".join(counts if len(counts) == 1 else [f"{count} {status}" for status, count in counts.items()])


def write_results(path: Path, results: Sequence[CompareResult]) -> None:
    """Replace `results.csv`: one line per run with its last row's figures; empty if a figure does not apply."""
    figures = known_figures(results)
    chosen = {id(result) for group in choose(results).values() for result in group}
    rows = []
    for result in results:
        run = {"method": result.run.method, "lr": result.run.lr, "seed": result.run.seed}
        marks = {"status": result.status, "chosen": "yes" if id(result) in chosen else "no"}
        rows.append({**run, **result.last.select(figures), **marks})
    write_table(path, ("method", "lr", "seed", *figures, "status", "chosen"), rows)


def _quality(group: Sequence[CompareResult]) -> tuple[float, float]:
    rounds, losses = zip(*(result.quality for result in group), strict=True)
    return statistics.median(rounds), statistics.median(losses)
