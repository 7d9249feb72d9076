import math
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from surmin.experiments.simulated.outcomes import LinkCell
from surmin.plots.breakeven import draw_breakeven, ink
from tests.experiments.simulated.test_outcomes import outcome

SECONDS: dict[tuple[float, float], tuple[float | None, float | None]] = {
    (0.0, 1e6): (1, 4), (0.01, 1e6): (24, 2), (0.1, 1e6): (2, None),
    (0.0, 1e8): (3, 2), (0.01, 1e8): (None, 2), (0.1, 1e8): (2, 2),
}  # fmt: skip
"""Of the method that is looked at and the best other, by latency and rate."""


def cells(stages: int) -> list[LinkCell]:
    """Not in the order of the axes; rounds are measured with three stages."""
    return [
        LinkCell(
            stages, latency, rate, own and outcome("sm", 3, stages, latency, own),
            other and outcome("adam", 3, stages, latency, other),
        )
        for (latency, rate), (own, other) in reversed(SECONDS.items())
    ]  # fmt: skip


@pytest.fixture
def panels(figures: list[Figure], monkeypatch: pytest.MonkeyPatch) -> Figure:
    monkeypatch.setattr("surmin.plots.breakeven.save", lambda *_: None)
    draw_breakeven(Path(), "sm", "mlp", [cells(3), cells(40)], 0.5)
    return figures[0]


def test_every_cell_has_its_place_and_its_words(panels: Figure) -> None:
    for axes in panels.axes[:2]:
        (image,) = axes.images
        np.testing.assert_allclose(image.get_array(), [[-2, 3, -3], [math.log2(1.5), 3, 0]])
        assert image.origin == "lower"
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "10", "100"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "100"]
        assert (axes.get_xticks().tolist(), axes.get_yticks().tolist()) == ([0, 1, 2], [0, 1])
        assert {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts} == {
            (0, 0): ("0.25\nadam posted", "white"), (1, 0): ("12\nadam posted", "white"),
            (2, 0): ("no other\nreaches it", "white"),
            (0, 1): ("1.50\nadam posted", "black"), (1, 1): ("not\nreached", "white"),
            (2, 1): ("1.00\nadam posted", "black"),
        }  # fmt: skip


def test_purple_is_faster_and_orange_slower(panels: Figure) -> None:
    *maps, bar = panels.axes
    (mesh,) = [own for own in bar.collections if isinstance(own, QuadMesh)]
    for drawn in (mesh, maps[0].images[0], maps[1].images[0]):
        (red, _, blue, _), (red_above, _, blue_above, _) = drawn.to_rgba(np.array([-3.0, 3.0]))
        assert blue > 1.5 * red and red_above > 1.5 * blue_above
        assert drawn.get_clim() == (-3, 3)
    assert bar.get_yticks().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    assert bar.get_ylabel() == "seconds, sm / best other"
    assert "Below 1 (purple) sm is faster, above 1 (orange) it loses." in panels.get_supxlabel()


def test_the_picture_says_that_it_is_modelled_and_what_is_in_its_cells(panels: Figure) -> None:
    assert panels.get_suptitle() == "Modelled seconds to a loss of 0.5: sm over the best other method\nmlp"
    assert "In a cell: this ratio, and which the best other method is." in panels.get_supxlabel()


def test_a_cell_where_nobody_reaches_the_loss_has_a_dash(
    figures: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where nothing is known nothing is said to be recorded."""
    monkeypatch.setattr("surmin.plots.breakeven.save", lambda *_: None)
    nobody = [LinkCell(40, latency, 1e8, None, None) for latency in (0.0, 0.1)]
    draw_breakeven(Path(), "sm", "mlp", [nobody], 0.5)
    axes = figures[0].axes[0]
    assert [(text.get_text(), text.get_color()) for text in axes.texts] == [("–", "black")] * 2
    assert axes.get_title(loc="left") == "40 stages"


@pytest.mark.parametrize("scale", ["PuOr_r", "gray"])
def test_ink_contrasts_with_every_colour(scale: str) -> None:
    """By WCAG 2 at least 4.5 to 1, of the two inks' luminance and the colour's."""
    for color in matplotlib.colormaps[scale](np.linspace(0, 1, 50)):
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        high, low = (1.05, luminance + 0.05) if ink(color) == "white" else (luminance + 0.05, 0.05)
        assert high / low > 4.5


def test_panels_tell_what_was_recorded(panels: Figure) -> None:
    assert [axes.get_title(loc="left") for axes in panels.axes[:2]] == [
        "3 stages: rounds recorded with 3 stages", "40 stages: extrapolated from rounds recorded with 3 stages"
    ]  # fmt: skip


def test_who_is_the_best_other_is_told(figures: list[Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surmin.plots.breakeven.save", lambda *_: None)
    own, other = outcome("sm", 3, 3, 0.0, 1.0), outcome("adam", 3, 3, 0.0, 2.0)
    others = [
        outcome("lbfgs", 3, 3, 0.0, 2.0), replace(other, schedule="1f1b"),
        replace(other, run=replace(other.run, batch_size=20)),
    ]  # fmt: skip
    draw_breakeven(Path(), "sm", "mlp", [[LinkCell(3, float(i), 1e8, own, each) for i, each in enumerate(others)]], 0.5)
    assert [text.get_text() for text in figures[0].axes[0].texts] == [
        "0.50\nlbfgs", "0.50\nadam 1f1b", "0.50\nadam posted\nbatch 20"
    ]  # fmt: skip
