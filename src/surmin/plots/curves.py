"""Plots of loss curves."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from surmin.experiments.comparisons.completing import Result
from surmin.plots.series import Axis, Curve
from surmin.plots.style import NO_COLOR, RC, LineStyle, entitle, save

MARKERS_PER_CURVE = 12
COMPRESS_ABOVE = 4.0
LOWEST_SHOWN, HIGHEST_SHOWN = 1e-8, 1e2
"""Larger losses are cut off, or all others would shrink to a strip; what ends above is marked at the edge."""
TARGET_NEAR = 10.0
"""A target is shown if a loss comes within this factor of it."""
FEW_DECADES = 2
"""With fewer, powers of ten are not enough to mark a logarithmic axis."""
CROSS, ABOVE = "x", "^"
LARGE: dict[str, Any] = {"markersize": 9, "markeredgewidth": 2.5}
LEGEND_LINE = 0.23  # inches


def draw_curves(
    path: Path,
    title: str,
    panels: Sequence[tuple[Axis, Sequence[Curve]]],
    target: float | None,
    crosses: str = "diverged",
) -> None:
    """Replace a PNG file: one panel per axis, in rows of two, with one legend below them all.

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
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        scale_losses(grid[0, 0], [curve for _, curves in panels for curve in curves], target)
        for index, axes in enumerate(grid.flat):
            if index >= len(panels):
                axes.set_axis_off()
                continue
            _draw_panel(axes, *panels[index], target, crosses)
        for axes in grid[:, 0]:
            axes.set_ylabel("training loss, log scale")
        label_figure(figure, title, 2 * columns)
        save(figure, path)


def _draw_panel(axes: Axes, axis: Axis, curves: Sequence[Curve], target: float | None, crosses: str) -> None:
    styles = LineStyle.of_several(len(curves))
    for curve, style in zip(curves, styles, strict=True):
        draw_curve(axes, curve, style)
        mark_ends(axes, curve, style)
    explain_ends(axes, curves, crosses)
    low, high = axes.get_ylim()
    if target is not None and low <= target <= high:
        axes.axhline(target, color=NO_COLOR, linewidth=1, linestyle=(0, (1, 2)), label=f"target {target:g}")
    scale_x(axes, axis, curves)


def draw_curve(axes: Axes, curve: Curve, style: LineStyle) -> None:
    """A curve with its range, in steps: a round's loss is known only when the round is done."""
    every = max(1, len(curve.median) // MARKERS_PER_CURVE)
    axes.plot(
        curve.x[: len(curve.median)],
        curve.median,
        drawstyle="steps-post",
        color=style.color,
        linestyle=style.dashes,
        linewidth=style.width,
        marker=style.marker,
        markersize=3.5 + style.width,
        markevery=(style.first_marked % every, every),
        label=curve.label,
    )
    if curve.runs > 1:
        axes.fill_between(curve.x, curve.low, curve.high, step="post", color=style.color, alpha=0.18, linewidth=0)


def mark_ends(axes: Axes, curve: Curve, style: LineStyle) -> None:
    """A cross where a run diverged or failed, otherwise a triangle at the edge if the median ends above it.

    The limits must already be those of the plot.
    """
    low, high = axes.get_ylim()
    for mark, ends in _marked_ends(curve, high).items():
        for x, end in ends:
            axes.plot([x], [min(max(end, low), high)], color=style.color, clip_on=False, zorder=5, marker=mark, **LARGE)


def explain_ends(axes: Axes, curves: Sequence[Curve], crosses: str) -> None:
    """The marks at the ends of these curves for the legend, and what a cross means."""
    _, high = axes.get_ylim()
    for mark, meaning in {CROSS: crosses, ABOVE: f"above {high:g}"}.items():
        if any(_marked_ends(curve, high)[mark] for curve in curves):
            axes.plot([], [], color=NO_COLOR, linestyle="", marker=mark, **LARGE, label=meaning)


def meaning_of_crosses(results: Iterable[Result[Any]]) -> str:
    """How runs ended that have losses but no last one; empty if all have one."""
    begun = [result for result in results if any(row.loss is not None for row in result.rows)]
    return " or ".join(sorted({result.status for result in begun if result.last.loss is None}))


def _marked_ends(curve: Curve, high: float) -> dict[str, Sequence[tuple[float, float]]]:
    return {CROSS: curve.ends, ABOVE: [curve.end] if curve.end[1] > high and not curve.ends else []}


def scale_x(axes: Axes, axis: Axis, curves: Sequence[Curve]) -> None:
    """Name the axis and start it at 0; a logarithmic scale (linear near 0) if one curve is much longer."""
    ends = [float(curve.x[-1]) for curve in curves if curve.x[-1] > 0]
    is_compressed = bool(ends) and max(ends) > COMPRESS_ABOVE * min(ends)
    if is_compressed:
        first = min(float(curve.x[curve.x > 0][0]) for curve in curves if curve.x[-1] > 0)
        linear_below = 10.0 ** math.floor(math.log10(max(first, min(ends) / 10)))
        axes.set_xscale("symlog", linthresh=linear_below, linscale=0.3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    elif axis.is_count:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, None if ends else 1)
    axes.set_xlabel(f"{axis.label}, log scale" if is_compressed else axis.label)


def scale_losses(axes: Axes, curves: Sequence[Curve], target: float | None) -> None:
    """A logarithmic scale for these curves, from the lowest loss shown to at most the highest, unless all are beyond.

    Args:
        axes: those whose vertical axis it is, shared or not.
        curves: those drawn there.
        target: a loss that is also shown, however low, if one comes near it.
    """
    axes.set_yscale("log")
    losses = np.concatenate([values for curve in curves for values in (curve.low, curve.high)])
    losses = losses[losses > 0]
    if not losses.size:
        return
    low, high, lowest = losses.min(), losses.max(), LOWEST_SHOWN
    if target is not None and 0 < low <= TARGET_NEAR * target:
        low, high, lowest = min(low, target), max(high, target), min(lowest, target / TARGET_NEAR)
    bottom = low if losses.max() < lowest else max(low, lowest)
    top = high if losses.min() > HIGHEST_SHOWN else min(high, HIGHEST_SHOWN)
    margin = max(1.05, (top / bottom) ** 0.05)
    axes.set_ylim(bottom / margin if bottom == low else bottom, top * margin if top == high else top)
    if top < 10**FEW_DECADES * bottom:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        for each in axes.get_shared_y_axes().get_siblings(axes):
            each.grid(visible=True, axis="y", which="minor")


def label_figure(figure: Figure, title: str, columns: int) -> None:
    """The title, and one legend of so many columns below all panels."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    entitle(figure, title)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(columns, len(handles)))
