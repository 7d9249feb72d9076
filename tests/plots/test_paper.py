from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from surmin.experiments.comparisons.paper_runs import PaperResult
from surmin.experiments.runs.metrics import Row
from surmin.experiments.runs.status import Status
from surmin.plots.paper import draw_paper
from tests.experiments.comparisons.test_paper import TINY, made

CONFIG = replace(TINY, depths=(2,), inner_steps=(1,), methods="gd,gd-armijo", seeds=3)
SUCCESS = made(2, "gd", None, [2.0, 1.0])
LOST = made(2, "gd", None, [2.0, None])


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of pages; nothing is written."""
    kept: list[str] = []
    monkeypatch.setattr("surmin.plots.paper.write_page", lambda path, title, sections: kept.append(title))
    for name in ("paper.write_markdown", "paper.save", "curves.save"):
        monkeypatch.setattr(f"surmin.plots.{name}", lambda *_: None)
    return kept


@pytest.mark.usefixtures("titles")
@pytest.mark.parametrize(("ends", "words"), [
    (["finished", "diverged"], "diverged"), (["finished", "failed"], "failed"),
    (["failed", "diverged"], "diverged or failed"),
])  # fmt: skip
def test_all_pictures_say_alike_what_crosses_are(
    ends: list[Status], words: str, tmp_path: Path, figures: list[Figure]
) -> None:
    draw_paper(tmp_path, CONFIG, [replace(SUCCESS if end == "finished" else LOST, status=end) for end in ends])
    legends = [{text.get_text() for text in figure.legends[0].get_texts()} for figure in figures]
    assert [legend - {"gd", f"target {CONFIG.target_loss:g}"} for legend in legends] == [{words}] * 2


@pytest.mark.parametrize(("others", "words"), [
    ([], "seed 0"), ([SUCCESS], "2 seeds"), ([SUCCESS, made(2, "gd-armijo", None, [2.0, 1.0])], "up to 2 seeds"),
])  # fmt: skip
def test_titles_tell_how_many_seeds_are_drawn(
    others: list[PaperResult], words: str, tmp_path: Path, titles: list[str], figures: list[Figure]
) -> None:
    draw_paper(tmp_path, CONFIG, [SUCCESS, *others])
    assert titles[0].endswith(f": {words}")
    assert figures and all(f": {words}, " in figure.get_suptitle() for figure in figures)


@pytest.mark.usefixtures("titles")
def test_a_row_for_every_n_has_losses_and_accuracies(tmp_path: Path, figures: list[Figure]) -> None:
    lasts = {("sm", 1): 1.0, ("sm", 2): 0.5, ("gd", None): 0.25}
    results = [
        replace(made(2, contender, steps, [2.0, last]), rows=[Row(0, 2.0, 0.1), Row(1, last, 1 - last / 10)])
        for (contender, steps), last in lasts.items()
    ]
    draw_paper(tmp_path, replace(CONFIG, inner_steps=(1, 2), methods="sm,gd"), results)
    panels = figures[0].axes
    assert [axes.get_ylabel() for axes in panels] == [
        "N = 1\ntraining loss, log scale", "test accuracy (%)", "N = 2\ntraining loss, log scale", "test accuracy (%)",
    ]  # fmt: skip
    np.testing.assert_allclose(
        [[line.get_ydata() for line in axes.lines] for axes in panels],
        [[[2, 1], [2, 0.25]], [[10, 90], [10, 97.5]], [[2, 0.5], [2, 0.25]], [[10, 95], [10, 97.5]]],
    )
    assert [[line.get_label() for line in axes.lines] for axes in panels] == [["sm", "gd"]] * 4


@pytest.mark.usefixtures("titles")
def test_short_runs_beside_long_ones_can_be_seen(tmp_path: Path, figures: list[Figure]) -> None:
    results = [made(2, "gd", None, [2.0] * 100), made(2, "gd-armijo", None, [2.0, 1.0])]
    draw_paper(tmp_path, CONFIG, results)
    assert all(axes.get_xscale() == "symlog" and axes.get_xlim()[0] == 0 for axes in figures[0].axes)
    assert [axes.get_xlabel() for axes in figures[0].axes] == ["rounds, log scale"] * 2


def test_the_grid_is_called_by_its_datas_name(tmp_path: Path, titles: list[str]) -> None:
    draw_paper(tmp_path, replace(CONFIG, data="some/faces-v1.2"), [SUCCESS])
    assert titles[0].startswith("faces-v1.2, ") and titles[-1] == "The paper's grid on faces-v1.2, width 6"
