"""Plots of `surmin theory`: Theorem 1's line, and tightness by layer and depth."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from surmin.experiments.comparisons.results import count_seeds
from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.runs.folder import data_name
from surmin.experiments.theory.theorem import TheoremRun
from surmin.experiments.theory.theory import NetworkTightness
from surmin.plots.curves import label_figure
from surmin.plots.series import Values
from surmin.plots.style import NO_COLOR, RC, LineStyle, save
from surmin.plots.tables import counted

ROWS = (
    ("random_ratio", "ℍ over G,\nrandom directions"),
    ("gradient_ratio", "ℍ over G,\nalong the gradient"),
    ("output_curvature", "output curvature\nper sample"),
)
"""Figures of a layer to plot, and their labels."""
LEGEND_WIDTH = 8.8
"""Inches; a plot of few depths is as wide."""
LEGEND_COLUMNS = 5  # of the theorem's picture
FEW_DECADES = 2.5
"""Range up to which an axis shows more numbers than the powers of ten."""


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
    """Replace a PNG file: one panel per curvature, one colour per N.

    min ‖∇h‖² is solid and the theorem's line dashed. Runs may coincide: earlier ones are wider. Where the local losses
    did not bound h there is a cross.
    """
    curvatures = list(dict.fromkeys(run.curvature for run in runs))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(4.4 * len(curvatures) + 0.8, 5.0), layout="constrained")
        grid = figure.subplots(1, len(curvatures), squeeze=False, sharey=True).flat
        for axes, curvature in zip(grid, curvatures, strict=True):
            own = [run for run in runs if run.curvature == curvature]
            for run, style in zip(own, LineStyle.of_several(len(own)), strict=True):
                _draw_run(axes, run, style)
            axes.set_title(f"{curvature} curvature")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("rounds T")
        for axes in figure.axes:
            _number(axes.xaxis)
            _number(axes.yaxis)
        figure.axes[0].set_ylabel("‖∇h‖², squared norm of the mean loss's gradient")
        _explain(figure.axes[0], any(run.bound_failures for run in runs))
        title = f"Theorem 1: Algorithm 1 with inner steps of size 1/β; {describe(config, config.layers)}"
        label_figure(figure, title, LEGEND_COLUMNS)
        save(figure, path)


def draw_tightness(path: Path, config: TheoryConfig, found: Sequence[NetworkTightness]) -> None:
    """Replace a PNG file: one column per depth; solid at the initialisation, dashed and hollow after training."""
    depths = list(dict.fromkeys(network.depth for network in found))
    with matplotlib.rc_context(RC):
        size = max(LEGEND_WIDTH, 3.3 * len(depths) + 0.8), 3.0 * len(ROWS) + 1.2
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(ROWS), len(depths), squeeze=False, sharey="row", sharex="col")
        for (name, label), row in zip(ROWS, grid, strict=True):
            for depth, axes in zip(depths, row, strict=True):
                _draw_depth(axes, [network for network in found if network.depth == depth], name)
            row[0].set_ylabel(label)
            _number(row[0].yaxis)
        for depth, axes in zip(depths, grid[0], strict=True):
            axes.set_title(f"{depth} layers")
        for axes in grid[-1]:
            axes.set_xlabel("layer, 1 = at the input")
        several = count_seeds(Counter((network.depth, network.rounds) for network in found).values())
        seeds = f"median and range over {several}" if several else f"seed {config.seed}"
        title = f"Local losses' curvature ℍ over the Gauss-Newton matrix G\n{describe(config)}; {seeds}"
        label_figure(figure, title, 3)
        save(figure, path)


def describe(config: TheoryConfig, layers: int | None = None) -> str:
    """The problem in a few words."""
    size = f"width {config.width}" if layers is None else f"{layers} × {config.width}"
    return f"{data_name(config.data)}, {config.train_samples:,} samples, mlp {size}, {config.activation}"


def _draw_run(axes: Axes, run: TheoremRun, style: LineStyle) -> None:
    rounds = np.arange(1, len(run.rounds) + 1)
    axes.plot(
        rounds, run.least, color=style.color, linewidth=style.width, marker=style.marker,
        markersize=3 + 2 * style.width, markevery=_marked(len(rounds)), label=f"min ‖∇h‖², N = {run.inner_steps}",
    )  # fmt: skip
    axes.plot(rounds, run.line, color=style.color, linewidth=style.width, linestyle="--")
    failed = [number for number, each in enumerate(run.rounds) if not each.is_bounded]
    axes.plot(
        [rounds[number] for number in failed], [run.least[number] for number in failed], color=style.color,
        linestyle="", marker="x", markersize=12 + 3 * style.width, markeredgewidth=2, zorder=3,
    )  # fmt: skip


def _explain(axes: Axes, with_crosses: bool) -> None:
    """For the legend, what is drawn of every run in its own colour."""
    axes.plot([], [], color=NO_COLOR, linestyle="--", label="2β h₀ / T, the theorem's line")
    if with_crosses:
        axes.plot(
            [], [], color=NO_COLOR, linestyle="", marker="x", markersize=9, markeredgewidth=2.5,
            label="local losses did not bound h",
        )  # fmt: skip


def _number(axis: Axis) -> None:
    """Write numbers, not powers, on a logarithmic axis, and enough of them if it is short."""
    low, high = axis.get_view_interval()
    is_short = high < low * 10**FEW_DECADES
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


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
            when = f"after {counted(rounds, 'round')} of sm" if rounds else "at the start"
            axes.plot(
                layers, spread.median, color=style.color, linestyle="--" if rounds else "-", linewidth=1.6,
                marker=style.marker, markersize=size,
                markerfacecolor="white" if rounds else style.color,
                label=f"{curvature}, {when}",
            )  # fmt: skip
            axes.fill_between(layers, spread.low, spread.high, color=style.color, alpha=0.13, linewidth=0)
    axes.set_yscale("log")
    axes.set_xticks(layers if len(layers) <= 8 else layers[::3])
