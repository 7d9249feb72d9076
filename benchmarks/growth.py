"""How a round's time grows with depth, width, samples and classes, relative to one gradient of the same network."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context

from benchmarks.clock import Stopwatch
from benchmarks.harness import Result, Settings, Table, median, number, spread
from benchmarks.problems import gaussian_mlp
from benchmarks.runs import STAGES, gradient, surrogate
from surmin.plots.style import RC, LineStyle

AXES: dict[str, Sequence[int]] = {
    "depth": (2, 4, 8, 16, 32),
    "width": (32, 64, 128, 256, 512),
    "samples": (1250, 2500, 5000, 10000, 20000),
    "classes": (2, 5, 10, 20, 50, 100),
}
CENTRE = {"depth": 8, "width": 128, "samples": 5000, "classes": 10}
QUICK_AXES: dict[str, Sequence[int]] = {"depth": (2, 4), "width": (16, 32), "samples": (250, 500), "classes": (2, 5)}
QUICK_CENTRE = {"depth": 4, "width": 32, "samples": 500, "classes": 5}
LABELS = {"depth": "linear layers", "width": "hidden width", "samples": "samples", "classes": "classes"}
ROUNDS = 7


@dataclass(frozen=True)
class Point:
    """One size: seconds by round and of a gradient beside each, and the gradient-equivalents counted."""

    size: dict[str, int]
    rounds: list[float]
    gradients: list[float]
    counted: list[float]

    @property
    def ratios(self) -> list[float]:
        """Rounds in measured gradients; the gradient's time is the median, as single ones of small sizes are noisy."""
        return [seconds / median(self.gradients) for seconds in self.rounds]


def run(settings: Settings) -> Result:
    """One size varied at a time."""
    axes, centre = (QUICK_AXES, QUICK_CENTRE) if settings.quick else (AXES, CENTRE)
    found = {axis: [_measure(settings, {**centre, axis: value}) for value in values] for axis, values in axes.items()}
    tables = [_table(axis, points, centre) for axis, points in found.items()]
    figures = {axis: [asdict(point) for point in points] for axis, points in found.items()}
    return Result(tables, [], figures, _picture(found, centre))


def _measure(settings: Settings, size: dict[str, int]) -> Point:
    problem = gaussian_mlp(settings.device, size["depth"], size["width"], size["samples"], classes=size["classes"])
    settings.note(", ".join(f"{name} {value}" for name, value in size.items()))
    model = problem.network(0)
    minimizer = surrogate(model, 0, stages=min(STAGES, size["depth"]))
    compute = gradient(problem, model)
    point = Point(size, [], [], [])
    for turn in range(ROUNDS + 1):
        ours, peer = Stopwatch(problem.device), Stopwatch(problem.device)
        with ours:
            report = minimizer.step(problem.inputs, problem.targets)
        with peer:
            compute()
        if turn:  # the first warms up
            point.rounds.append(ours.seconds)
            point.gradients.append(peer.seconds)
            point.counted.append(report.gradient_equivalents)
    return point


def _table(axis: str, points: list[Point], centre: dict[str, int]) -> Table:
    rows = [
        (
            str(point.size[axis]), f"{median(point.gradients) * 1e3:.1f}", f"{median(point.rounds) * 1e3:.1f}",
            spread(point.ratios, 1), number(median(point.counted), 1),
        )
        for point in points
    ]  # fmt: skip
    columns = (LABELS[axis], "gradient, ms", "round, ms", "round in gradients", "counted")
    return Table(f"{axis}; {_fixed(axis, centre)}; median (range) of {ROUNDS} rounds", columns, rows)


def _fixed(axis: str, centre: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in centre.items() if name != axis)


@context(RC)
def _picture(found: dict[str, list[Point]], centre: dict[str, int]) -> Figure:
    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for panel, (axis, points) in zip(panels, found.items(), strict=True):
        _draw(panel, axis, points)
        panel.set_title(_fixed(axis, centre), fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle("One round of sm, in forward and backward passes of the same network")
    return figure


def _draw(panel: Axes, axis: str, points: list[Point]) -> None:
    sizes = [point.size[axis] for point in points]
    quarters = [quantiles(point.ratios, n=4, method="inclusive") for point in points]
    whiskers = [[middle - low for low, middle, _ in quarters], [high - middle for _, middle, high in quarters]]
    measured, counted = LineStyle.number(0), LineStyle.number(1)
    panel.errorbar(
        sizes, [middle for _, middle, _ in quarters], yerr=whiskers, color=measured.color, marker=measured.marker,
        linestyle=measured.dashes, capsize=3, label="time: median and middle half of the rounds",
    )  # fmt: skip
    panel.plot(
        sizes, [median(point.counted) for point in points], color=counted.color, marker=counted.marker,
        linestyle=counted.dashes, label="operations, counted: median",
    )  # fmt: skip
    panel.set(xlabel=LABELS[axis], ylabel="gradients per round", xscale="log", ylim=(0, None))
    panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.minorticks_off()
