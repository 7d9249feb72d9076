"""Pictures of loss curves."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from surmin.plots.series import Axis, Curve
from surmin.plots.style import RC, LineStyle, entitle, save

MARKERS_PER_CURVE = 12
COMPRESS_ABOVE = 4.0
LOWEST_SHOWN, HIGHEST_SHOWN = 1e-15, 1e2
"""Losses beyond are off the picture, or all others would shrink to a strip: rounding decides about those below, and
above are runs that diverge, whose crosses are drawn at the edge."""
LEGEND_LINE = 0.23  # inches


def draw_curves(
    path: Path,
    title: str,
    panels: Sequence[tuple[Axis, Sequence[Curve]]],
    target: float | None,
    crosses: str = "diverged",
) -> None:
    """Replace a PNG file: one panel an axis, side by side in rows of two, with one legend below them all.

    Args:
        path: the file.
        title: the first line.
        panels: the same curves against each axis.
        target: a loss to mark.
        crosses: what a cross at the end of a curve means.
    """
    with matplotlib.rc_context(RC):
        columns = min(2, len(panels))
        rows = -(-len(panels) // columns)
        lines = -(-max(len(curves) for _, curves in panels) // (2 * columns))
        height = 4.0 * rows + 0.7 + LEGEND_LINE * lines
        figure = Figure(figsize=(6.2 * columns + 0.6, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
        for index, axes in enumerate(grid):
            if index >= len(panels):
                axes.set_axis_off()
                continue
            _draw_panel(axes, *panels[index], target, crosses)
            if index % columns == 0:
                axes.set_ylabel("training loss, log scale")
        label_figure(figure, title, 2 * columns)
        save(figure, path)


def _draw_panel(axes: Axes, axis: Axis, curves: Sequence[Curve], target: float | None, crosses: str) -> None:
    for index, curve in enumerate(curves):
        draw_curve(axes, curve, LineStyle.number(index))
    if any(curve.ends for curve in curves):
        explain_crosses(axes, crosses)
    if target is not None:
        axes.axhline(target, color="#666666", linewidth=1, linestyle=(0, (1, 2)), label=f"target {target:g}")
    scale_losses(axes)
    is_compressed = _scale_x(axes, curves)
    if axis.figure == "round" and not is_compressed:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"{axis.label}, log scale" if is_compressed else axis.label)


def draw_curve(axes: Axes, curve: Curve, style: LineStyle) -> None:
    """A curve with its range, and a cross where a run diverged or failed."""
    every = max(1, len(curve.x) // MARKERS_PER_CURVE)
    axes.plot(
        curve.x,
        curve.median,
        color=style.color,
        linestyle=style.dashes,
        linewidth=1.8,
        marker=style.marker,
        markersize=5,
        markevery=every,
        label=curve.label,
    )
    if curve.runs > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=style.color, alpha=0.18, linewidth=0)
    highest = math.inf if curve.low.min() > HIGHEST_SHOWN else HIGHEST_SHOWN
    for x, end in curve.ends:
        axes.plot([x], [min(end, highest)], color=style.color, marker="x", markersize=9, markeredgewidth=2.5)


def explain_crosses(axes: Axes, meaning: str) -> None:
    """A cross for the legend."""
    axes.plot([], [], color="#666666", linestyle="", marker="x", markersize=9, markeredgewidth=2.5, label=meaning)


def _scale_x(axes: Axes, curves: Sequence[Curve]) -> bool:
    """Start at 0; use a logarithmic scale (linear near 0) when one curve is much longer."""
    ends = [float(curve.x[-1]) for curve in curves if curve.x[-1] > 0]
    is_compressed = bool(ends) and max(ends) > COMPRESS_ABOVE * min(ends)
    if is_compressed:
        first = min(float(curve.x[curve.x > 0][0]) for curve in curves if curve.x[-1] > 0)
        linear_below = 10.0 ** math.floor(math.log10(max(first, min(ends) / 10)))
        axes.set_xscale("symlog", linthresh=linear_below, linscale=0.3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xlim(left=0)
    return is_compressed


def scale_losses(axes: Axes) -> None:
    """A logarithmic scale from the lowest loss shown to the highest at most, unless all losses are beyond it."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    least, most = _extremes(axes)
    axes.set_ylim(
        low if most < LOWEST_SHOWN else max(low, LOWEST_SHOWN),
        high if least > HIGHEST_SHOWN else min(high, HIGHEST_SHOWN),
    )


def _extremes(axes: Axes) -> tuple[float, float]:
    """The least and the largest value of all curves. The target's line is none: its x is no data."""
    curves = [line.get_ydata() for line in axes.lines if line.get_transform() is axes.transData]
    values = [float(value) for curve in curves for value in np.asarray(curve) if value > 0]
    return (min(values), max(values)) if values else (LOWEST_SHOWN, HIGHEST_SHOWN)


def label_figure(figure: Figure, title: str, columns: int) -> None:
    """The title, and one legend of so many columns below all panels."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    entitle(figure, title)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(columns, len(handles)))
