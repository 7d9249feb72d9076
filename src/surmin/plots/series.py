"""From rows to the numbers that are drawn: median and range over seeds against what the training cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surmin.experiments.metrics import Row

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
    """Training loss of one method.

    Attributes:
        label: what the legend says.
        x: where the runs have rows, all together, in order.
        median: over the runs; a run that has stopped counts with its last loss.
        low: least over the runs.
        high: largest over the runs.
        ends: last finite point of every run that diverged, (x, loss).
        runs: how many.
    """

    label: str
    x: Values
    median: Values
    low: Values
    high: Values
    ends: Sequence[tuple[float, float]]
    runs: int


def loss_curve(label: str, runs: Sequence[Sequence[Row]], axis: Axis) -> Curve:
    """The curve of one method's runs. Between its rows a run is interpolated, linearly in the logarithm of the loss."""
    points = [_points(rows, axis) for rows in runs]
    x = np.unique(np.concatenate([xs for xs, _ in points]))
    logs = np.array([np.interp(x, xs, ys) for xs, ys in points])
    ends = [
        (float(xs[-1]), math.exp(ys[-1])) for (xs, ys), rows in zip(points, runs, strict=True) if rows[-1].loss is None
    ]
    median, low, high = (np.exp(function(logs, axis=0)) for function in (np.median, np.min, np.max))
    return Curve(label, x, median, low, high, ends, len(runs))


def visible_axes(runs: Sequence[Sequence[Row]]) -> list[Axis]:
    """The axes against which there is something to see (a single stage sends nothing); the first when there is none."""
    visible = [axis for axis in AXES if any(axis.of(rows[-1]) > axis.of(rows[0]) for rows in runs)]
    return visible or [AXES[0]]


def _points(rows: Sequence[Row], axis: Axis) -> tuple[Values, Values]:
    finite = [(axis.of(row), math.log(max(row.loss, SMALLEST))) for row in rows if row.loss is not None]
    x, y = np.array(finite or [(0.0, math.nan)]).T
    return x, y
