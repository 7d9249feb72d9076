import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from surmin.plots.curves import draw_curves
from surmin.plots.run import describe, draw_run
from surmin.plots.series import AXES, Axis, loss_curve
from surmin.plots.style import LineStyle
from tests.experiments.runs.cases import tiny_run
from tests.plots.cases import edges, make_rows, picture_size


def drawn(
    folder: Path, figures: list[Figure], runs: Sequence[Sequence[float | None]], target: float | None = None
) -> Axes:
    """Of one method over rounds."""
    curve = loss_curve("sm", [make_rows(losses) for losses in runs], AXES[0])
    draw_curves(folder / "curves.png", "", [(AXES[0], [curve])], target)
    return figures[-1].axes[0]


def ends_of(axes: Axes, mark: str) -> list[tuple[float, float]]:
    return [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == mark and len(line.get_xdata())]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_panel_an_axis(tmp_path: Path, figures: list[Figure]) -> None:
    panels = [(axis, [loss_curve("sm", [make_rows([2, 1]), make_rows([2, 0.5])], axis)]) for axis in AXES[:3]]
    draw_curves(tmp_path / "curves.png", "a title", panels, target=0.7)
    (figure,) = figures
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in shown] == [axis.label for axis in AXES[:3]]
    assert all(axes.get_yscale() == "log" and axes.get_xlim()[0] == 0 for axes in shown)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sm", "target 0.7"]
    width, height = picture_size(tmp_path / "curves.png")
    assert width > 1000 and height > 800


def test_a_curve_is_the_median_in_a_band_over_several_runs(tmp_path: Path, figures: list[Figure]) -> None:
    runs = [make_rows(losses) for losses in ([8, 1], [4, 2], [2, 16])]
    curves = [loss_curve("sm", runs, AXES[0]), loss_curve("gd", runs[:1], AXES[0])]
    draw_curves(tmp_path / "curves.png", "", [(AXES[0], curves)], None)
    axes = figures[0].axes[0]
    np.testing.assert_allclose([line.get_xydata() for line in axes.lines], [[[0, 4], [1, 2]], [[0, 8], [1, 1]]])
    (band,) = axes.collections
    np.testing.assert_allclose(edges(band), [(0, 2, 8), (1, 1, 16)])
    assert tuple(band.get_facecolor()[0][:3]) == to_rgb(axes.lines[0].get_color())


def test_a_much_longer_curve_is_compressed(tmp_path: Path, figures: list[Figure]) -> None:
    axis = AXES[0]
    curves = [loss_curve("sm", [make_rows([2, 1, 0.1])], axis), loss_curve("gd", [make_rows([2.0] * 200)], axis)]
    draw_curves(tmp_path / "curves.png", "a title", [(axis, curves)], None)
    axes = figures[0].axes[0]
    assert axes.get_xscale() == "symlog" and axes.get_xlabel() == "rounds, log scale"


def test_a_loss_is_only_there_when_the_round_is_done(tmp_path: Path, figures: list[Figure]) -> None:
    axes = drawn(tmp_path, figures, [[4, 1, 0.5], [4, 2, 0.25]])
    assert axes.lines[0].get_drawstyle() == "steps-post"
    assert [1, 4] in axes.collections[0].get_paths()[0].vertices.tolist()


def test_divergence_is_marked(tmp_path: Path, figures: list[Figure]) -> None:
    axes = drawn(tmp_path, figures, [[2, 9, None]])
    assert ends_of(axes, "x") == [(1.0, pytest.approx(9))] and ends_of(axes, "^") == []
    assert legend(figures[0]) == ["sm", "diverged"]


def test_what_leaves_the_picture_above_is_marked_whole_at_its_edge(tmp_path: Path, figures: list[Figure]) -> None:
    above, crossed = (drawn(tmp_path, figures, [losses]) for losses in ([2, 1, 1e6], [2, 1e9, None]))
    assert ends_of(above, "^") == [(2.0, 100.0)] and ends_of(above, "x") == []
    assert ends_of(crossed, "x") == [(1.0, 100.0)] and ends_of(crossed, "^") == []
    assert [legend(figure) for figure in figures] == [["sm", "above 100"], ["sm", "diverged"]]
    for axes in (above, crossed):
        assert axes.get_ylim()[1] == 100
        assert not any(line.get_clip_on() for line in axes.lines if line.get_marker() in "x^" and len(line.get_xdata()))


@pytest.mark.parametrize(("losses", "target", "low", "is_target_shown"), [
    ([2, 1e-3, 1e-12], None, 1e-8, False),
    ([2, 1e-3, 1e-12], 1e-6, 1e-8, True),
    ([2, 1e-3, 1e-12], 1e-10, 1e-11, True),
    ([2, 1.5, 1], 1e-6, 0.9, False),
])  # fmt: skip
def test_how_far_down_the_picture_goes(
    losses: list[float | None], target: float | None, low: float, is_target_shown: bool, tmp_path: Path,
    figures: list[Figure],
) -> None:  # fmt: skip
    axes = drawn(tmp_path, figures, [losses], target)
    assert axes.get_ylim()[0] == pytest.approx(low, rel=0.1)
    assert (f"target {target:g}" in legend(figures[0]) if target else False) == is_target_shown


def test_few_decades_have_numbers_and_lines(tmp_path: Path, figures: list[Figure]) -> None:
    axes = drawn(tmp_path, figures, [[2.3, 2.2]])
    figures[0].draw_without_rendering()
    low, high = axes.get_ylim()
    shown = [tick.label1.get_text() for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert len(shown) > 2 and all(text == f"{float(text):g}" for text in shown)
    assert not any(tick.label1.get_text() for tick in axes.yaxis.get_minor_ticks())
    assert all(tick.gridline.get_visible() for tick in axes.yaxis.get_minor_ticks())


@pytest.mark.parametrize("axis", [axis for axis in AXES if axis.is_count])
@pytest.mark.parametrize("rounds", [1, 2])
def test_what_is_counted_has_no_fractions(axis: Axis, rounds: int, tmp_path: Path, figures: list[Figure]) -> None:
    rows = [replace(row, messages=row.round, forward_waves=row.round) for row in make_rows([2.0] * rounds)]
    draw_curves(tmp_path / "curves.png", "", [(axis, [loss_curve("sm", [rows], axis)])], None)
    ticks = figures[0].axes[0].get_xticks()
    assert len(ticks) > 1 and all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize("target", [None, 0.1])
@pytest.mark.parametrize("losses", [[200.0, 150.0], [150.0, 1e6], [150.0, 300.0, None], [1e-17, 1e-18]])
def test_losses_that_are_all_beyond_what_is_shown_are_shown(
    tmp_path: Path, figures: list[Figure], losses: list[float | None], target: float | None
) -> None:
    draw_curves(tmp_path / "curves.png", "", [(AXES[0], [loss_curve("gd", [make_rows(losses)], AXES[0])])], target)
    low, high = figures[0].axes[0].get_ylim()
    assert low < min(filter(None, losses)) < max(filter(None, losses)) < high


def test_dollars_in_a_name_are_no_formula(tmp_path: Path) -> None:
    for name in ("a$b_{c$d", "a$b", "a$$b$x$"):
        draw_run(tmp_path / "curves.png", tiny_run(data=f"{name}.npz"), make_rows([2, 1]))
        assert picture_size(tmp_path / "curves.png")[0] > 500


@pytest.mark.parametrize("losses", [[2.0], [None], [2.0, None]])
def test_runs_that_hardly_began_can_be_drawn(tmp_path: Path, losses: list[float | None]) -> None:
    draw_run(tmp_path / "curves.png", tiny_run(), make_rows(losses))
    assert picture_size(tmp_path / "curves.png")[0] > 500


def test_the_settings_of_matplotlib_are_left_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    draw_run(tmp_path / "curves.png", tiny_run(), make_rows([2, 1]))
    assert dict(matplotlib.rcParams) == before


def test_styles_differ() -> None:
    assert len({LineStyle.number(number) for number in range(100)}) == 100


def test_a_curve_below_another_shows() -> None:
    styles = LineStyle.of_several(5)
    assert [style.color for style in styles] == [LineStyle.number(number).color for number in range(5)]
    assert all(below.width > above.width for below, above in itertools.pairwise(styles))
    assert len({style.first_marked for style in styles}) == 5
    assert LineStyle.of_several(1)[0].width == styles[-1].width


def test_the_problem_in_words() -> None:
    assert describe(tiny_run(activation="tanh", batch_size=1000)) == (
        "digits, first 60 samples, mlp 3 × 8, tanh, batches of 1,000"
    )
    assert describe(tiny_run(data="a/b.npz", train_samples=None)) == "b, mlp 3 × 8"
    assert describe(tiny_run(data="faces-v1.1")).startswith("faces-v1.1, first")
