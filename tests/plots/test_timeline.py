from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from surmin.experiments.traces.timeline import Timeline
from surmin.plots.timeline import COLORS, draw_timelines
from tests.pipeline.spans import gradient_step, row, surrogate_round
from tests.plots.cases import picture_size


def written(axes: Axes) -> list[tuple[float, float, str]]:
    """What is written in the boxes: ms, row and text."""
    return sorted((*text.get_position(), text.get_text()) for text in axes.texts)


def test_the_papers_figure(tmp_path: Path, figures: list[Figure]) -> None:
    path = tmp_path / "timeline.png"
    draw_timelines(path, "a title", {"GPipe": gradient_step(), "SM": surrogate_round()})
    ((upper, lower),) = [figure.axes for figure in figures]
    assert upper.get_title(loc="left") == "GPipe: utilisation 70.0 %"
    assert lower.get_title(loc="left") == "SM: utilisation 69.4 %"
    assert upper.get_xlim() == lower.get_xlim() == (0, pytest.approx(0.018))
    assert lower.get_xlabel() == "time (ms)"
    rows = zip(upper.get_yticks(), [label.get_text() for label in upper.get_yticklabels()], strict=True)
    assert list(rows) == [(0, "worker 0, 70.0 %"), (1, "worker 1, 70.0 %")]
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["F forward", "B backward", "C curvature", "U local updates", "A acceptance", "W waiting"]
    explained = figures[0].legends[0].get_title().get_text()
    assert explained == "number: micro-batch;  white: none of these;  utilisation: F, B, C, U"
    width, height = picture_size(path)
    assert width > 1400 and height > 500


DEUTERANOPIA = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
"""Of linear RGB, by Machado and others (2009)."""
TO_LMS = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
TO_OKLAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])


def test_colours_differ_for_who_sees_no_green() -> None:
    seen = []
    for color, _ in COLORS.values():
        parts = np.array(to_rgb(color))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        seen.append(TO_OKLAB @ np.cbrt(TO_LMS @ np.clip(DEUTERANOPIA @ linear, 0, 1)))
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 0.1


def test_dollars_in_a_name_are_no_formula(tmp_path: Path) -> None:
    draw_timelines(tmp_path / "timeline.png", "cost_$a_{$b.npz", {"SM": surrogate_round()})
    assert picture_size(tmp_path / "timeline.png")[0] > 1000


def test_boxes_lie_where_the_spans_do(tmp_path: Path, figures: list[Figure]) -> None:
    timeline = Timeline.merge([row(0, "F|FWUUU", start=100), row(1, "...B", start=100)])
    draw_timelines(tmp_path / "timeline.png", "", {"SM": timeline})
    boxes = [
        (path.get_extents().extents.round(6).tolist(), tuple(collection.get_facecolor()[0][:3]))
        for collection in figures[0].axes[0].collections
        for path in collection.get_paths()
    ]
    assert boxes == [
        ([0.002, -0.4, 0.003, 0.4], to_rgb(COLORS["W"][0])),
        ([0.0, -0.4, 0.001, 0.4], to_rgb(COLORS["F"][0])),
        ([0.001, -0.4, 0.002, 0.4], to_rgb(COLORS["F"][0])),
        ([0.003, 0.6, 0.004, 1.4], to_rgb(COLORS["B"][0])),
        ([0.003, -0.4, 0.006, 0.4], to_rgb(COLORS["U"][0])),
    ]


def test_microbatches_are_written_where_they_fit(tmp_path: Path, figures: list[Figure]) -> None:
    draw_timelines(tmp_path / "wide.png", "", {"SM": Timeline.merge([row(0, "F|FWUUU")])})
    draw_timelines(tmp_path / "narrow.png", "", {"SM": Timeline.merge([row(0, "F|FW" + 600 * "U")])})
    wide, narrow = [[text for _, _, text in written(figure.axes[0])] for figure in figures]
    assert wide == ["0", "1", "U"]
    assert narrow == ["U"]


def test_what_nothing_was_done_in_is_not_in_the_legend(tmp_path: Path, figures: list[Figure]) -> None:
    draw_timelines(tmp_path / "timeline.png", "", {"SM": Timeline.merge([row(0, "F")])})
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["F forward"]


def test_the_settings_of_matplotlib_are_left_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    draw_timelines(tmp_path / "timeline.png", "", {"SM": surrogate_round()})
    assert dict(matplotlib.rcParams) == before
