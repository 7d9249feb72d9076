"""Cells of a saved race measured again: the words for them, and what is put where."""

import json

import pytest

from benchmarks.harness import SAVED
from benchmarks.links import again
from benchmarks.links.entries import Need
from benchmarks.links.race import GOAL_CELL, TIMED, result_of, tasks_of, timed_rounds


@pytest.fixture
def saved():
    return json.loads((SAVED / "links.race.json").read_text(encoding="utf-8"))


def test_a_saved_race_makes_its_own_tables_again(saved):
    result = result_of({name: Need(**need) for name, need in saved["needs"].items()}, saved["cells"])
    assert result.figures["cells"] == saved["cells"]
    assert result.targets[0].measured == saved["targets"][0]["measured"]
    assert len(result.tables) == len(saved["cells"]) + 1


def test_only_the_cells_named_are_replaced(saved, tmp_path, monkeypatch):
    (tmp_path / "links.race.json").write_text(json.dumps(saved), encoding="utf-8")
    first = saved["cells"][0]
    new = {**first, "date": "now", "ratio": 0.5}
    asked = []

    def measure(settings, needs, wanted):
        asked.extend(wanted)
        return [new]

    monkeypatch.setattr(again, "SAVED", tmp_path)
    monkeypatch.setattr(again, "race_cells", measure)
    monkeypatch.setattr(again, "is_busy", lambda machine: False)
    again.main([f"{1e3 * first['latency']:g},{first['rate'] / 1e6:g}"])
    written = json.loads((tmp_path / "links.race.json").read_text(encoding="utf-8"))
    assert asked == [(first["latency"], first["rate"])]
    assert written["cells"] == [new, *saved["cells"][1:]]
    assert written["machine"] == saved["machine"]


@pytest.mark.parametrize("word", ["7,1000", "0.1", "fast"])
def test_a_word_that_is_no_cell_is_refused(word, saved, monkeypatch):
    monkeypatch.setattr(again, "is_busy", lambda machine: False)
    with pytest.raises(SystemExit, match="is no cell of the race: give milliseconds and Mbit/s"):
        again.main([word])


def test_over_quick_links_more_of_adams_rounds_are_timed():
    needs = {name: Need(10, 20, {}) for name in TIMED}
    for link, adam in ((GOAL_CELL, 4), ((0.01, 1e8), 16), ((1e-4, 2e7), 4)):
        timed = {task.method: task.rounds for task in tasks_of(needs, timed_rounds(*link)) if not task.is_whole}
        assert timed == {"adam": adam, "lbfgs": 16}
