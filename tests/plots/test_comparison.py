import base64
import platform
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from surmin.experiments.comparisons.completing import Result
from surmin.experiments.comparisons.grid import plan_runs
from surmin.plots.comparison import draw_comparison
from surmin.plots.series import LINES_AND_BANDS
from tests.plots.cases import COMPARISON, make_results, make_rows, picture_size, write_configs

PICTURES = [
    "curves.png", "loss-rounds.png", "loss-seconds.png", "loss-gradient-equivalents.png", "loss-bytes.png",
    "loss-messages.png", "loss-forward-waves.png",
]  # fmt: skip


class Outline(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.sources: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)
        for name, value in attrs:
            if tag == "img" and name == "src":
                self.sources.append(value or "")
            elif name in {"src", "href"}:
                self.addresses.append(value or "")
        if tag == "br":
            self.tables[-1][-1][-1] += "\n"
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def outline_of(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    return outline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparison")
    write_configs(path)
    draw_comparison(path, COMPARISON, make_results())
    return path


def test_pictures_and_page(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([*PICTURES, "report.html", "config.json", "runs"])
    assert all(min(picture_size(folder / name)) > 400 for name in PICTURES)
    page = (folder / "report.html").read_text()
    outline = outline_of(page)
    embedded = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in outline.sources]
    assert embedded == [(folder / name).read_bytes() for name in PICTURES]
    assert outline.addresses == [] and not re.search(r"https?://", page)


def test_the_tables_of_the_page(folder: Path) -> None:
    summary, runs, settings = outline_of((folder / "report.html").read_text()).tables
    assert [row[0] for row in summary] == ["method", "sm", "adam, lr 0.1", "gd, lr 0.1"]
    assert summary[0][1:4] == ["outcome", "rounds", "training loss"]
    assert summary[1][1:6] == ["reached", "2", "0.01", "90.0 %", "1.1\n1 to 1.2"]
    assert summary[3][1:4] == ["diverged", "2", "–"]
    assert len(runs) == 1 + 10
    assert ["target_loss", "0.1"] in settings and ["lr", "0.1,0.2"] in settings


def test_settings_are_those_that_runs_had_and_where(tmp_path: Path) -> None:
    config = replace(COMPARISON, stages=None, damping_candidates=(0.1, 1.0))
    write_configs(tmp_path, config, stages=3)
    draw_comparison(tmp_path, config, make_results())
    settings = dict(outline_of((tmp_path / "report.html").read_text()).tables[-1])
    assert settings["damping_candidates"] == "0.1 1.0"
    assert [settings[name] for name in ("stages", "activation", "device", "batch_size")] == [
        "3", "relu", "cpu", "the full batch",
    ]  # fmt: skip
    assert [settings[name] for name in ("machine", "torch", "python")] == [
        platform.machine(), torch.__version__, platform.python_version(),
    ]  # fmt: skip


def test_the_page_tells_of_what_is_there(tmp_path: Path) -> None:
    of_seeds, of_lbfgs = "the median over seeds, below it the range", "(of lbfgs, 20 iterations)"
    for number, (seeds, methods, is_told) in enumerate([(1, "sm,gd", False), (2, "sm,lbfgs", True)]):
        config = replace(COMPARISON, methods=methods, seeds=seeds)
        folder = tmp_path / str(number)
        folder.mkdir()
        write_configs(folder, config)
        draw_comparison(folder, config, [Result(run, make_rows([2, 1]), "finished") for run in plan_runs(config)])
        page = (folder / "report.html").read_text()
        assert [words in page for words in (of_seeds, of_lbfgs, LINES_AND_BANDS)] == [is_told] * 3


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (10, "median and range over 2 seeds"),
        (3, "median and range over up to 2 seeds"),
        (1, "seed 0"),
    ],
)
def test_pictures_tell_how_many_seeds_there_are(
    kept: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr("surmin.plots.comparison.draw_curves", lambda path, title, *_: titles.append(title))
    monkeypatch.setattr("surmin.plots.comparison.write_page", lambda *_: None)
    write_configs(tmp_path)
    draw_comparison(tmp_path, COMPARISON, make_results()[:kept])
    assert titles and all(title.endswith(f": {words}") for title in titles)


def test_runs_that_failed_are_named_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings are those of a run that has a folder."""
    crosses: list[str] = []

    def draw(path: Path, *rest: Any) -> None:
        path.touch()
        crosses.append(rest[-1])

    monkeypatch.setattr("surmin.plots.comparison.draw_curves", draw)
    write_configs(tmp_path)
    first, *others = make_results()
    shutil.rmtree(tmp_path / "runs" / first.run.name)
    lost = replace(first, rows=[*first.rows, first.last.lost()], status="failed", failure="out of memory")
    draw_comparison(tmp_path, COMPARISON, [lost, *others], {"newton": "too large"})
    summary, _, left_out, failed, _ = outline_of((tmp_path / "report.html").read_text()).tables
    assert summary[1][:2] == ["sm", "1 failed, 1 reached"]
    assert left_out == [["method", "why"], ["newton", "too large"]]
    assert failed == [["run", "why"], [first.run.name, "out of memory"]]
    assert set(crosses) == {"diverged or failed"}


def test_names_are_escaped(tmp_path: Path) -> None:
    write_configs(tmp_path)
    draw_comparison(tmp_path, replace(COMPARISON, data="a<b>&.npz"), make_results())
    page = (tmp_path / "report.html").read_text()
    assert "a&lt;b&gt;&amp;" in page and "a<b>" not in page
    outline_of(page)
