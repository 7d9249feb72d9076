"""The break-even map: how much faster or slower a method is than the best other, by latency and rate of the links."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from surmin.experiments.simulated.outcomes import LinkCell
from surmin.plots.series import Values
from surmin.plots.style import RC, entitle, save
from surmin.plots.tables import counted

COLORS = "PuOr_r"  # purple and orange: distinguishable by everyone, with white between them
FURTHEST = 3.0
"""Extent of the colour scale: 8 times faster or slower."""
BRIGHT_FROM = 0.179
"""The relative luminance above which black contrasts more with a colour than white does (WCAG 2)."""


def draw_breakeven(path: Path, method: str, problem: str, panels: Sequence[Sequence[LinkCell]], target: float) -> None:
    """Replace a PNG file: one panel for every number of stages.

    Args:
        path: the file.
        method: the method of interest.
        problem: what is trained.
        panels: cells of one number of stages each.
        target: the loss to reach.
    """
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        latencies, rates = _axis(panels[0], "latency"), _axis(panels[0], "rate")
        size = (max(6.5, 1.15 * len(latencies) + 2.4), (0.72 * len(rates) + 1.3) * len(panels) + 1.4)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False)
        images = [_draw_panel(axes, own, latencies, rates) for axes, own in zip(grid.flat, panels, strict=True)]
        entitle(
            figure, f"Modelled seconds to a loss of {target:g}: {method} over the best other method\n{problem}",
            fontsize=11,
        )  # fmt: skip
        figure.supxlabel(
            f"In a cell: this ratio, and which the best other method is.\n"
            f"Below 1 (purple) {method} is faster, above 1 (orange) it loses.",
            fontsize=10,
        )
        ticks = range(-3, 4)
        bar = figure.colorbar(images[0], ax=list(grid.flat), ticks=list(ticks), label=f"seconds, {method} / best other")
        bar.ax.set_yticklabels([f"{2**tick:g}" if tick >= 0 else f"1/{2**-tick}" for tick in ticks])
        save(figure, path)


def ink(color: Values) -> str:
    """Black or white, whichever is easier to read on a colour, RGBA, that lies on white."""
    parts = np.array(color[:3]) * color[3] + (1 - color[3])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > BRIGHT_FROM else "white"


def _axis(cells: Sequence[LinkCell], name: str) -> list[float]:
    return sorted({getattr(cell, name) for cell in cells})


def _draw_panel(axes: Axes, cells: Sequence[LinkCell], latencies: Sequence[float], rates: Sequence[float]) -> AxesImage:
    values = np.full((len(rates), len(latencies)), math.nan)
    places = {(rates.index(cell.rate), latencies.index(cell.latency)): cell for cell in cells}
    for place, cell in places.items():
        values[place] = np.clip(np.log2(np.maximum(cell.ratio, 2.0**-9)), -FURTHEST, FURTHEST)
    image = axes.imshow(values, cmap=COLORS, vmin=-FURTHEST, vmax=FURTHEST, aspect="auto", origin="lower")
    for (row, column), cell in places.items():
        color = ink(image.to_rgba(values[row, column]))
        axes.text(column, row, _words(cell), ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(latencies)), [f"{1e3 * latency:g}" for latency in latencies])
    axes.set_yticks(range(len(rates)), [f"{rate / 1e6:g}" for rate in rates])
    axes.set(xlabel="latency of a link, one way (ms)", ylabel="rate of a link (Mbit/s)")
    axes.set_title(_title(cells), loc="left", fontsize=10)
    return image


def _title(cells: Sequence[LinkCell]) -> str:
    stages = counted(cells[0].stages, "stage")
    known = [found for cell in cells for found in (cell.own, cell.other) if found is not None]
    if not known:
        return stages
    rounds = f"rounds recorded with {counted(max(found.run.workers for found in known), 'stage')}"
    return f"{stages}: extrapolated from {rounds}" if any(own.is_stretched for own in known) else f"{stages}: {rounds}"


def _words(cell: LinkCell) -> str:
    """The ratio, and the best other method; a dash if none reaches the loss."""
    if cell.own is None:
        return "–" if cell.other is None else "not\nreached"
    if cell.other is None:
        return "no other\nreaches it"
    digits = 2 if cell.ratio < 10 else 0
    method, *rest = cell.other.label.split(", ")
    who = f"{method} {rest[0]}" if not rest[0].startswith("M ") else method
    batch = f"\nbatch {cell.other.run.batch_size}" if cell.other.run.batch_size else ""
    return f"{cell.ratio:.{digits}f}\n{who}{batch}"
