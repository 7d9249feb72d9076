"""Cells of a saved race measured again: the words for them, and what is put where."""

import json

import pytest

from benchmarks.harness import SAVED
from benchmarks.links import again, race
from benchmarks.links.entries import Need
from benchmarks.links.race import result_of
from benchmarks.links.racer import Task


@pytest.fixture
def saved():
    return json.loads((SAVED / "links.race.json").read_text(encoding="utf-8"))


def test_a_saved_race_makes_its_own_tables_again(saved):
    result = result_of({name: Need(**need) for name, need in saved["needs"].items()}, saved["cells"])
    ratios = [f"{cell['ratio']:.3f}" for cell in saved["cells"]]
    assert [row[-1] for row in result.tables[-1].rows] == ratios  # found again from each cell's entries
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


def test_links_are_quick_up_to_ten_milliseconds_and_from_a_hundred_megabits():
    quick = [(latency, rate) for rate in race.RATES for latency in race.LATENCIES if race.is_quick(latency, rate)]
    assert quick == [(1e-4, 1e9), (0.01, 1e9), (1e-4, 1e8), (0.01, 1e8)]


def test_of_several_runs_each_time_is_the_median(monkeypatch):
    task = Task("adam", {}, 8, "posted", 3)
    runs = iter([(3.0, 5.0), (1.0, 9.0), (9.0, 6.0)])

    def run_tasks(laboratory, tasks):
        seconds, processor = next(runs)
        rounds = range(1, 4)
        own = {"bytes": [7 * r for r in rounds], "waves": [*rounds], "losses": [1.0] * 3}
        times = {"ends": [seconds * r for r in rounds], "processor": [processor * r for r in rounds]}
        return [[{**own, **times}] for _ in tasks]

    monkeypatch.setattr(race, "run_tasks", run_tasks)
    (entry,) = race.median_entries(None, [task], {"adam": Need(10, 20, {})}, 3)
    assert (entry.near, entry.far, entry.processor, entry.rounds) == (30.0, 60.0, 6.0, 20)
