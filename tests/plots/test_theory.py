from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.theory.theorem import TheoremRound, TheoremRun
from surmin.experiments.theory.theory import NetworkTightness
from surmin.experiments.theory.tightness import LayerTightness
from surmin.plots.style import PALETTE
from surmin.plots.theory import describe, draw_theorem, draw_tightness
from tests.plots.cases import edges


@pytest.fixture(autouse=True)
def _unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surmin.plots.theory.save", lambda *_: None)


@pytest.mark.parametrize(("seeds", "words"), [
    ((1, 1), "; seed 0"), ((2, 2), "; median and range over 2 seeds"),
    ((2, 1), "; median and range over up to 2 seeds"),
])  # fmt: skip
def test_the_title_tells_how_many_seeds_are_drawn(seeds: tuple[int, ...], words: str, figures: list[Figure]) -> None:
    found = [
        NetworkTightness(depth, seed, rounds, 1.0, [LayerTightness("factor", 1, 2, 2, 2, 2, 2, 0, 2)])
        for depth, count in enumerate(seeds, start=1)
        for seed in range(count)
        for rounds in (0, 1)
    ]
    draw_tightness(Path(), TheoryConfig(seeds=3, depths=(1, 2)), found)
    assert figures[0].get_suptitle().endswith(words)
    assert legend_of(figures[0]) == ["factor, at the start", "factor, after 1 round of sm"]


def theorem_run(curvature: str, inner_steps: int, squares: list[float], broken: set[int]) -> TheoremRun:
    """Of β = 2 from a loss of 3; in broken rounds the loss rises."""
    rounds = [
        TheoremRound(3.0, square, 1.0, 0.0, 4.0 if number in broken else 3.0)
        for number, square in enumerate(squares, start=1)
    ]
    return TheoremRun(curvature, inner_steps, 0, 2.0, 0, rounds)


def lines_of(axes: Axes) -> list[tuple[int, str, str, list[list[float]]]]:
    """Those with something to see: colour, dashes, marker and points."""
    return [
        (PALETTE.index(line.get_color()), line.get_linestyle(), line.get_marker(), line.get_xydata().tolist())
        for line in axes.lines
        if len(line.get_xydata())
    ]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_least_norms_are_solid_the_theorem_s_lines_dashed_and_failures_crossed(figures: list[Figure]) -> None:
    """A cross has its run's colour."""
    runs = [
        theorem_run("factor", 1, [4, 9, 1], {2}), theorem_run("factor", 5, [8, 2], {1, 2}),
        theorem_run("scalar", 1, [5, 5], set()),
    ]  # fmt: skip
    draw_theorem(Path(), TheoryConfig(), runs)
    assert {axes.get_title(): lines_of(axes) for axes in figures[0].axes} == {
        "factor curvature": [
            (0, "-", "o", [[1, 4], [2, 4], [3, 1]]), (0, "--", "None", [[1, 12], [2, 6], [3, 4]]),
            (0, "None", "x", [[2, 4]]),
            (1, "-", "s", [[1, 8], [2, 2]]), (1, "--", "None", [[1, 12], [2, 6]]),
            (1, "None", "x", [[1, 8], [2, 2]]),
        ],
        "scalar curvature": [(0, "-", "o", [[1, 5], [2, 5]]), (0, "--", "None", [[1, 12], [2, 6]])],
    }  # fmt: skip
    assert legend_of(figures[0]) == [
        "min ‖∇h‖², N = 1", "min ‖∇h‖², N = 5", "2β h₀ / T, the theorem's line", "local losses did not bound h",
    ]  # fmt: skip


def test_runs_that_coincide_are_all_seen(figures: list[Figure]) -> None:
    """The earlier a run, the wider its lines and crosses."""
    draw_theorem(Path(), TheoryConfig(), [theorem_run("factor", steps, [4, 1], {1}) for steps in (1, 5, 10)])
    lines = [line for line in figures[0].axes[0].lines if len(line.get_xydata())]
    for kind in range(3):
        sizes = [line.get_markersize() if kind == 2 else line.get_linewidth() for line in lines[kind::3]]
        assert sizes[0] > sizes[1] > sizes[2]


def test_there_is_no_cross_where_nothing_failed(figures: list[Figure]) -> None:
    draw_theorem(Path(), TheoryConfig(), [theorem_run("factor", 1, [4, 1], set())])
    assert legend_of(figures[0]) == ["min ‖∇h‖², N = 1", "2β h₀ / T, the theorem's line"]


@pytest.mark.parametrize(("count", "ticks"), [(5, ["1", "2", "5"]), (1000, ["1", "10", "100", "1000"])])
def test_axes_have_numbers(count: int, ticks: list[str], figures: list[Figure]) -> None:
    draw_theorem(Path(), TheoryConfig(), [theorem_run("factor", 1, [4.0] * count, set())])
    axis = figures[0].axes[0].xaxis
    low, high = axis.get_view_interval()
    places = [place for place in axis.get_majorticklocs() if low <= place <= high]
    assert [axis.get_major_formatter()(place) for place in places] == ticks


def test_tightness_is_solid_at_the_start_and_dashed_and_hollow_after_training(figures: list[Figure]) -> None:
    """Ratios grow with the layer, tenfold with training, and by seeds from 1 over 3 to 7; scalar is twice factor."""

    def layer(curvature: str, number: int, size: float) -> LayerTightness:
        own = number * size * (2 if curvature == "scalar" else 1)
        return LayerTightness(curvature, number, own, 2 * own, 0, 0, 0, 0, 100 * own)

    found = [
        NetworkTightness(2, seed, rounds, 1.0, [
            layer(curvature, number, (1, 3, 7)[seed] * (10 if rounds else 1))
            for curvature in ("factor", "scalar")
            for number in (1, 2)
        ])
        for seed in range(3)
        for rounds in (0, 10)
    ]  # fmt: skip
    draw_tightness(Path(), TheoryConfig(seeds=3, depths=(2,)), found)
    for scale, axes in zip((1, 2, 100), figures[0].axes, strict=True):
        lines = [
            (line.get_linestyle(), line.get_markerfacecolor() == "white", line.get_ydata().tolist())
            for line in axes.lines
        ]
        assert lines == [
            (dashes, hollow, [3 * scale * size, 6 * scale * size])
            for dashes, hollow, size in (("-", False, 1), ("-", False, 2), ("--", True, 10), ("--", True, 20))
        ]
        for band, size in zip(axes.collections, (1, 2, 10, 20), strict=True):
            assert edges(band) == [(number, number * scale * size, 7 * number * scale * size) for number in (1, 2)]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        "factor, at the start", "scalar, at the start",
        "factor, after 10 rounds of sm", "scalar, after 10 rounds of sm",
    ]  # fmt: skip


def test_the_problem_in_words() -> None:
    config = TheoryConfig(data="some/faces-v1.2", train_samples=1000)
    assert describe(config) == "faces-v1.2, 1,000 samples, mlp width 16, tanh"
    assert describe(config, layers=3) == "faces-v1.2, 1,000 samples, mlp 3 × 16, tanh"
