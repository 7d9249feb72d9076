import threading
from pathlib import Path

import pytest

from surmin.commands import paper as paper_module
from surmin.experiments.comparisons.paper import Known
from surmin.experiments.comparisons.paper_runs import Cell, cells
from surmin.experiments.configs.paper import PaperConfig

CONFIG = PaperConfig(depths=(2,), methods="gd")


def test_nothing_else_runs_beside_what_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(threading.enumerate())
    beside: list[set[threading.Thread]] = []

    def estimate(config: PaperConfig, known: Known, scratch: Path) -> dict[Cell, float]:
        beside.append({*threading.enumerate()} - before)
        return dict.fromkeys(cells(config), 1.0)

    def run_paper(*_: object) -> list[object]:
        beside.append({*threading.enumerate()} - before)
        return []

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(paper_module, "estimate", estimate)
    monkeypatch.setattr(paper_module, "run_paper", run_paper)
    paper_module._announce(CONFIG, {})
    paper_module._run(CONFIG, tmp_path, {})
    assert beside == [set(), set()]
    assert "timing three rounds of every method" in capfd.readouterr().err
