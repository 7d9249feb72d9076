"""Tables as text cells, for the page and the terminal alike."""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from surmin.experiments.comparisons.results import CompareResult, Spread, Summary, known_figures
from surmin.experiments.runs.metrics import Row


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; a cell's second line is an aside; columns from `numbers_from` on are right-aligned."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers_from: int = 1


def short(value: float | None) -> str:
    """Three digits, or all of a number from 100 up; a dash for a missing value."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if 100 <= size < 1e6 or (value == int(value) and size < 1e6):
        return f"{value:,.0f}"
    return f"{value:.3g}" if 1e-2 <= size < 100 else f"{value:.2e}"


def counted(number: int, noun: str, ending: str = "s") -> str:
    """So many of something: "1 round", "2 rounds"."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def megabytes(value: float | None) -> str:
    """Bytes in units of a million."""
    return short(None if value is None else value / 1e6)


FigureColumn = tuple[str, str, Callable[[float | None], str]]
"""Figure, heading, and format."""

FIGURE_COLUMNS: Sequence[FigureColumn] = (
    ("round", "rounds", short),
    ("loss", "training loss", short),
    ("test_accuracy", "test accuracy", percent),
    ("seconds", "time, s", short),
    ("gradient_equivalents", "work, gradients", short),
    ("forward_waves", "forward waves", short),
    ("messages", "messages", short),
    ("bytes", "sent, MB", megabytes),
)
TEST_LOSS: FigureColumn = ("test_loss", "test loss", short)
"""In the test accuracy's place where there are no labels."""


def write_spread(spread: Spread, write: Callable[[float | None], str]) -> str:
    """The median, and below it the range if its ends are written differently."""
    median, low, high = write(spread.median), write(spread.low), write(spread.high)
    return median if low == high else f"{median}\n{low} to {high}"


def summary_table(summaries: Sequence[Summary], *, ranges: bool) -> Table:
    """One line per method: medians over seeds, and the ranges if wanted."""
    columns = _columns(summaries[0].figures)
    rows = [
        [
            summary.label,
            summary.statuses,
            *(_summarized(summary.figures[figure], write, ranges) for figure, _, write in columns),
        ]
        for summary in summaries
    ]
    return Table(["method", "outcome", *(heading for _, heading, _ in columns)], rows, numbers_from=2)


def runs_table(results: Sequence[CompareResult]) -> Table:
    """One line per run."""
    columns = _columns(known_figures(results))
    rows = [
        [result.run.method, _rate(result.run.lr), str(result.run.seed), result.status, *_cells(result.last, columns)]
        for result in results
    ]
    headings = ["method", "lr", "seed", "outcome", *(heading for _, heading, _ in columns)]
    return Table(headings, rows, numbers_from=4)


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:g}"


def _columns(figures: Container[str]) -> list[FigureColumn]:
    return [column if column[0] in figures else TEST_LOSS for column in FIGURE_COLUMNS]


def _cells(row: Row, columns: Sequence[FigureColumn]) -> list[str]:
    return [write(getattr(row, figure)) for figure, _, write in columns]


def _summarized(spread: Spread, write: Callable[[float | None], str], ranges: bool) -> str:
    return write_spread(spread, write) if ranges else write(spread.median)
