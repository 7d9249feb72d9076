"""Pictures of `surmin theory`: Theorem 1's line, and tightness by layer and depth."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surmin.experiments.comparisons.results import count_seeds
from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.runs.folder import data_name
from surmin.experiments.theory.theorem import TheoremRun
from surmin.experiments.theory.theory import NetworkTightness
from surmin.plots.series import Values
from surmin.plots.style import PALETTE, RC, LineStyle, entitle, save

ROWS = (
    ("random_ratio", "ℍ over G,\nrandom directions"),
    ("gradient_ratio", "ℍ over G,\nalong the gradient"),
    ("output_curvature", "output curvature\nper sample"),
)
"""Figures of a layer that are drawn, and their labels."""


FAILED = PALETTE[-1]
LEGEND_WIDTH = 8.8
"""Inches; a picture of few depths is as wide."""


@dataclass(frozen=True)
class LayerSpread:
    """A figure of every layer, from the first to the last: median and extremes over seeds."""

    median: Values
    low: Values
    high: Values


def spread_by_layer(found: Sequence[NetworkTightness], curvature: str, figure: str) -> LayerSpread:
    """One figure of `LayerTightness` over networks of the same depth."""
    values = np.array(
        [[getattr(each, figure) for each in one.layers if each.curvature == curvature] for one in found], dtype=float
    )
    return LayerSpread(*(function(values, axis=0) for function in (np.median, np.min, np.max)))


def draw_theorem(path: Path, config: TheoryConfig, runs: Sequence[TheoremRun]) -> None:
    """Replace a PNG file: a panel a curvature, min ‖∇h‖² solid and the theorem's line thin, a colour for every N."""
    curvatures = list(dict.fromkeys(run.curvature for run in runs))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(4.4 * len(curvatures) + 0.8, 5.0), layout="constrained")
        grid = figure.subplots(1, len(curvatures), squeeze=False, sharey=True).flat
        for axes, curvature in zip(grid, curvatures, strict=True):
            own = [run for run in runs if run.curvature == curvature]
            for index, run in enumerate(own):
                _draw_run(axes, run, LineStyle.number(index))
            _draw_failures(axes, own)
            axes.set_title(f"{curvature} curvature")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("rounds T")
        figure.axes[0].set_ylabel("‖∇h‖², squared norm of the mean loss's gradient")
        title = f"Theorem 1: Algorithm 1 with inner steps of size 1/β; {describe(config, config.layers)}"
        entitle(figure, title)
        _add_legend(figure, columns=3)
        save(figure, path)


def draw_tightness(path: Path, config: TheoryConfig, found: Sequence[NetworkTightness]) -> None:
    """Replace a PNG file: a column a depth; solid at the initialisation, dashed and hollow after training."""
    depths = list(dict.fromkeys(network.depth for network in found))
    with matplotlib.rc_context(RC):
        size = max(LEGEND_WIDTH, 3.3 * len(depths) + 0.8), 3.0 * len(ROWS) + 1.2
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(ROWS), len(depths), squeeze=False, sharey="row", sharex="col")
        for (name, label), row in zip(ROWS, grid, strict=True):
            for depth, axes in zip(depths, row, strict=True):
                _draw_depth(axes, [network for network in found if network.depth == depth], name)
            row[0].set_ylabel(label)
        for depth, axes in zip(depths, grid[0], strict=True):
            axes.set_title(f"{depth} layers")
        for axes in grid[-1]:
            axes.set_xlabel("layer, 1 = at the input")
        several = count_seeds(Counter((network.depth, network.rounds) for network in found).values())
        seeds = f"median and range over {several}" if several else f"seed {config.seed}"
        title = f"Local losses' curvature ℍ over the Gauss-Newton matrix G; {describe(config)}; {seeds}"
        entitle(figure, title)
        _add_legend(figure, columns=3)
        save(figure, path)


def describe(config: TheoryConfig, layers: int | None = None) -> str:
    """The problem in a few words."""
    size = f"width {config.width}" if layers is None else f"{layers} × {config.width}"
    return f"{data_name(config.data)}, {config.train_samples:,} samples, mlp {size}, {config.activation}"


def _draw_run(axes: Axes, run: TheoremRun, style: LineStyle) -> None:
    rounds = np.arange(1, len(run.rounds) + 1)
    axes.plot(
        rounds, run.least, color=style.color, linewidth=2, marker=style.marker, markersize=5,
        markevery=_marked(len(rounds)), label=f"min ‖∇h‖², N = {run.inner_steps}",
    )  # fmt: skip
    axes.plot(
        rounds, run.line, color=style.color, linewidth=1.2, linestyle="--",
        label=f"the theorem's 2β h₀ / T, N = {run.inner_steps}",
    )  # fmt: skip


def _draw_failures(axes: Axes, runs: Sequence[TheoremRun]) -> None:
    failed = [
        (number, run.least[number - 1])
        for run in runs
        for number, each in enumerate(run.rounds, start=1)
        if not each.is_bounded
    ]
    axes.plot(
        [number for number, _ in failed], [least for _, least in failed], color=FAILED, linestyle="", marker="x",
        markersize=9, markeredgewidth=2, zorder=3, label="local losses did not bound h",
    )  # fmt: skip


def _marked(count: int) -> list[int]:
    """About ten places, evenly on a logarithmic axis."""
    return sorted({int(place) - 1 for place in np.geomspace(1, count, 10).round()})


def _draw_depth(axes: Axes, found: Sequence[NetworkTightness], name: str) -> None:
    for rounds in dict.fromkeys(network.rounds for network in found):
        own = [network for network in found if network.rounds == rounds]
        for index, curvature in enumerate(dict.fromkeys(layer.curvature for layer in own[0].layers)):
            style, spread = LineStyle.number(index), spread_by_layer(own, curvature, name)
            layers = np.arange(1, len(spread.median) + 1)
            size = 8 if index == 0 else 6  # the first curve is often hidden under the second
            when = f"after {rounds} rounds of sm" if rounds else "at the start"
            axes.plot(
                layers, spread.median, color=style.color, linestyle="--" if rounds else "-", linewidth=1.6,
                marker=style.marker, markersize=size,
                markerfacecolor="white" if rounds else style.color,
                label=f"{curvature}, {when}",
            )  # fmt: skip
            axes.fill_between(layers, spread.low, spread.high, color=style.color, alpha=0.13, linewidth=0)
    axes.set_yscale("log")
    axes.set_xticks(layers if len(layers) <= 8 else layers[::3])


def _add_legend(figure: Figure, columns: int) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns)
