"""From rows to the numbers that are drawn: median and range over seeds against what the training cost."""

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
    """A figure of the rows that curves are drawn against: its field, what files are called after it, and its label."""

    figure: str
    name: str
    label: str
    scale: float = 1.0

    def of(self, row: Row) -> float:
        """The row's value in the label's unit."""
        return self.scale * float(getattr(row, self.figure))


AXES = (
    Axis("round", "rounds", "rounds"),
    Axis("seconds", "seconds", "training time (s)"),
    Axis("gradient_equivalents", "gradient-equivalents", "work (forward and backward passes over the batch)"),
    Axis("bytes", "bytes", "sent between stages (MB)", 1e-6),
    Axis("messages", "messages", "messages between stages"),
    Axis("forward_waves", "forward-waves", "forward waves"),
)


@dataclass(frozen=True)
class Curve:
    """A figure of one method's runs, its training loss for instance.

    Attributes:
        label: what the legend says.
        x: where the runs have rows, all together, in order.
        median: over the runs; a run that has stopped counts with its last value.
        low: least over the runs.
        high: largest over the runs.
        ends: last finite point of every run that diverged or failed, (x, value).
        runs: how many; one that failed before its first row counts only where all did.
    """

    label: str
    x: Values
    median: Values
    low: Values
    high: Values
    ends: Sequence[tuple[float, float]]
    runs: int


def loss_curve(label: str, runs: Sequence[Sequence[Row]], axis: Axis) -> Curve:
    """The training loss. Between its rows a run is interpolated, linearly in the logarithm of the loss."""
    return _curve(
        label, runs, axis, lambda row: None if row.loss is None else math.log(max(row.loss, SMALLEST)), np.exp
    )


def accuracy_curve(label: str, runs: Sequence[Sequence[Row]], axis: Axis) -> Curve:
    """The test accuracy in per cent, interpolated between rows."""
    return _curve(label, runs, axis, lambda row: row.test_accuracy, lambda shares: 100 * shares)


def _curve(
    label: str, runs: Sequence[Sequence[Row]], axis: Axis, value: Callable[[Row], float | None],
    shown: Callable[[Values], Values],
) -> Curve:  # fmt: skip
    """Of a value that is interpolated linearly, and then made into what is shown."""
    begun = [rows for rows in runs if any(value(row) is not None for row in rows)] or runs[:1]
    points = [_points(rows, axis, value) for rows in begun]
    x = np.unique(np.concatenate([xs for xs, _ in points]))
    values = np.array([np.interp(x, xs, ys) for xs, ys in points])
    ends = [
        (float(xs[-1]), float(shown(ys[-1:])[0]))
        for (xs, ys), rows in zip(points, begun, strict=True)
        if rows[-1].loss is None
    ]
    median, low, high = (shown(function(values, axis=0)) for function in (np.median, np.min, np.max))
    return Curve(label, x, median, low, high, ends, len(begun))


def visible_axes(runs: Sequence[Sequence[Row]]) -> list[Axis]:
    """The axes against which there is something to see (a single stage sends nothing); the first when there is none."""
    visible = [axis for axis in AXES if any(axis.of(rows[-1]) > axis.of(rows[0]) for rows in runs)]
    return visible or [AXES[0]]


def _points(rows: Sequence[Row], axis: Axis, value: Callable[[Row], float | None]) -> tuple[Values, Values]:
    finite = [(axis.of(row), found) for row in rows if (found := value(row)) is not None]
    x, y = np.array(finite or [(0.0, math.nan)]).T
    return x, y
