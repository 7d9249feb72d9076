"""From rows to the numbers that are plotted: median and range over seeds against what the training cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surmin.experiments.runs.metrics import Row

Values = NDArray[np.float64]
SMALLEST = 1e-30  # stands for a loss of exactly 0 on a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """A figure of the rows that curves are drawn against.

    Attributes:
        figure: its field.
        name: used in file names.
        label: with its unit.
        scale: factor that converts a value to that unit.
        is_count: whether it counts whole things.
    """

    figure: str
    name: str
    label: str
    scale: float = 1.0
    is_count: bool = False

    def of(self, row: Row) -> float:
        """The row's value in the label's unit."""
        return self.scale * float(getattr(row, self.figure))


AXES = (
    Axis("round", "rounds", "rounds", is_count=True),
    Axis("seconds", "seconds", "training time (s)"),
    Axis("gradient_equivalents", "gradient-equivalents", "work (forward and backward passes over the batch)"),
    Axis("bytes", "bytes", "MB sent between stages", 1e-6),
    Axis("messages", "messages", "messages between stages", is_count=True),
    Axis("forward_waves", "forward-waves", "forward waves", is_count=True),
)


LINES_AND_BANDS = (
    "In a picture a line is the median and its band the range; a run that has stopped or diverged counts with its last "
    "value. The line ends where most runs have stopped, those that diverged not among them."
)
"""How to read plots of several seeds."""


@dataclass(frozen=True)
class Curve:
    """A figure of one method's runs, such as training loss. Between its rows a run keeps its last value.

    Attributes:
        label: its name in the legend.
        x: where the runs have rows, all together, in order.
        median: over the runs, as far as more than half of them go: shorter than `x` if some stop before.
        low: lowest over the runs; one that has stopped counts with its last value.
        high: highest over the runs, likewise.
        ends: last finite point of every run that diverged or failed, (x, value).
        runs: how many; one that failed before its first row counts only if all did.
    """

    label: str
    x: Values
    median: Values
    low: Values
    high: Values
    ends: Sequence[tuple[float, float]]
    runs: int

    @property
    def end(self) -> tuple[float, float]:
        """The last point of the median."""
        return float(self.x[len(self.median) - 1]), float(self.median[-1])


def loss_curve(label: str, runs: Sequence[Sequence[Row]], axis: Axis) -> Curve:
    """The training loss."""
    return _curve(label, runs, axis, lambda row: None if row.loss is None else max(row.loss, SMALLEST))


def accuracy_curve(label: str, runs: Sequence[Sequence[Row]], axis: Axis) -> Curve:
    """The test accuracy in per cent."""
    return _curve(label, runs, axis, lambda row: None if row.test_accuracy is None else 100 * row.test_accuracy)


def _curve(label: str, runs: Sequence[Sequence[Row]], axis: Axis, value: Callable[[Row], float | None]) -> Curve:
    begun = [rows for rows in runs if any(value(row) is not None for row in rows)] or runs[:1]
    points = [_points(rows, axis, value) for rows in begun]
    x = np.unique(np.concatenate([xs for xs, _ in points]))
    values = np.array([ys[np.searchsorted(xs, x, side="right") - 1] for xs, ys in points])
    lost = [rows[-1].loss is None for rows in begun]
    ends = [(float(xs[-1]), float(ys[-1])) for (xs, ys), is_lost in zip(points, lost, strict=True) if is_lost]
    # a run that is lost never comes to where others stop
    stops = sorted(math.inf if is_lost else xs[-1] for (xs, _), is_lost in zip(points, lost, strict=True))
    median = np.median(values, axis=0)[x <= stops[len(stops) // 2]]
    return Curve(label, x, median, values.min(axis=0), values.max(axis=0), ends, len(begun))


def visible_axes(runs: Sequence[Sequence[Row]]) -> list[Axis]:
    """The axes on which there is something to see (a single stage sends nothing); the first if there is none."""
    visible = [axis for axis in AXES if any(axis.of(rows[-1]) > axis.of(rows[0]) for rows in runs)]
    return visible or [AXES[0]]


def _points(rows: Sequence[Row], axis: Axis, value: Callable[[Row], float | None]) -> tuple[Values, Values]:
    finite = [(axis.of(row), found) for row in rows if (found := value(row)) is not None]
    x, y = np.array(finite or [(0.0, math.nan)]).T
    return x, y
