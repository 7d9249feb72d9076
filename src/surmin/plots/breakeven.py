"""The break-even map: how much faster or slower a method is than the best other, by latency and rate of the links."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from surmin.experiments.simulated.outcomes import Cell
from surmin.plots.series import Values
from surmin.plots.style import RC, entitle, save
from surmin.plots.tables import counted

COLORS = "PuOr_r"  # purple and orange: told apart by all eyes, and white between them
FURTHEST = 3.0
"""Of the colour scale: 8 times faster or slower."""
BRIGHT_FROM = 0.179
"""The relative luminance from which black contrasts more with a colour than white does (WCAG 2)."""


def draw_breakeven(path: Path, method: str, problem: str, panels: Sequence[Sequence[Cell]], target: float) -> None:
    """Replace a PNG file: one panel for every number of stages.

    Args:
        path: the file.
        method: the one that is looked at.
        problem: what is trained.
        panels: cells of one number of stages each.
        target: the loss that is to be reached.
    """
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        latencies, rates = _axis(panels[0], "latency"), _axis(panels[0], "rate")
        size = (max(6.5, 1.15 * len(latencies) + 2.4), (0.72 * len(rates) + 1.3) * len(panels) + 1.4)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False)
        for axes, cells in zip(grid.flat, panels, strict=True):
            _draw_panel(axes, cells, latencies, rates)
        entitle(
            figure, f"Modelled seconds to a loss of {target:g}: {method} over the best other method\n{problem}",
            fontsize=11,
        )  # fmt: skip
        figure.supxlabel(
            f"In a cell: this ratio, and which the best other method is.\n"
            f"Below 1 (purple) {method} is faster, above 1 (orange) it loses.",
            fontsize=10,
        )
        scale = ScalarMappable(Normalize(-FURTHEST, FURTHEST), COLORS)
        ticks = range(-3, 4)
        bar = figure.colorbar(scale, ax=list(grid.flat), ticks=list(ticks), label=f"seconds, {method} / best other")
        bar.ax.set_yticklabels([f"{2**tick:g}" if tick >= 0 else f"1/{2**-tick}" for tick in ticks])
        save(figure, path)


def ink(color: Values) -> str:
    """Black or white, whichever is easier to read on a colour, RGBA."""
    parts = np.array(color[:3])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > BRIGHT_FROM else "white"


def _axis(cells: Sequence[Cell], name: str) -> list[float]:
    return sorted({getattr(cell, name) for cell in cells})


def _draw_panel(axes: Axes, cells: Sequence[Cell], latencies: Sequence[float], rates: Sequence[float]) -> None:
    scale = ScalarMappable(Normalize(-FURTHEST, FURTHEST), COLORS)
    values = np.full((len(rates), len(latencies)), math.nan)
    for cell in cells:
        row, column = rates.index(cell.rate), latencies.index(cell.latency)
        values[row, column] = np.clip(np.log2(np.maximum(cell.ratio, 2.0**-9)), -FURTHEST, FURTHEST)
        axes.text(
            column, row, _words(cell), ha="center", va="center", fontsize=8,
            color=ink(scale.to_rgba(values[row, column])),
        )  # fmt: skip
    axes.imshow(values, cmap=COLORS, vmin=-FURTHEST, vmax=FURTHEST, aspect="auto", origin="lower")
    axes.set_xticks(range(len(latencies)), [f"{1e3 * latency:g}" for latency in latencies])
    axes.set_yticks(range(len(rates)), [f"{rate / 1e6:g}" for rate in rates])
    axes.set(xlabel="latency of a link, one way (ms)", ylabel="rate of a link (Mbit/s)")
    axes.set_title(_title(cells), loc="left", fontsize=10)


def _title(cells: Sequence[Cell]) -> str:
    known = [found for cell in cells for found in (cell.own, cell.other) if found is not None]
    recorded = max((found.run.workers for found in known), default=cells[0].stages)
    rounds = f"rounds recorded with {counted(recorded, 'stage')}"
    if any(found.is_stretched for found in known):
        return f"{counted(cells[0].stages, 'stage')}: extrapolated from {rounds}"
    return f"{counted(cells[0].stages, 'stage')}: {rounds}"


def _words(cell: Cell) -> str:
    """The ratio, and who the best other is."""
    if cell.own is None:
        return "not\nreached"
    if cell.other is None:
        return "no other\nreaches it"
    digits = 2 if cell.ratio < 10 else 0
    method, *rest = cell.other.label.split(", ")
    who = f"{method} {rest[0]}" if not rest[0].startswith("M ") else method
    batch = f"\nbatch {cell.other.run.batch_size}" if cell.other.run.batch_size else ""
    return f"{cell.ratio:.{digits}f}\n{who}{batch}"
