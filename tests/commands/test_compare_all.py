"""Every method of the registry trains, in one comparison."""

import csv
import math
from pathlib import Path

import pytest

from surmin.cli import main
from surmin.experiments.runs.metrics import read_rows
from surmin.methods.registry import METHODS

ROUNDS = 3
SMALL = [
    "--data", "digits", "--train-samples", "40", "--layers", "3", "--width", "6", "--stages", "3",
    "--rounds", str(ROUNDS),
]  # fmt: skip
"""A network of 502 parameters: newton leaves out larger ones than 2,000, like the default one of 29,770."""
COSTS = ("seconds", "gradient_equivalents", "messages", "bytes", "forward_waves")


def test_every_method_of_the_registry_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "all"
    monkeypatch.setattr("surmin.commands.compare.draw_comparison", lambda *_: None)  # drawn in test_in_browser.py
    assert main(["compare", "--methods", "all", *SMALL, "--out", str(folder)]) == 0
    output = capfd.readouterr().out
    assert "left out:" not in output and "failed:" not in output
    with (folder / "results.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["method"] for row in found] == list(METHODS)
    for row in found:
        method = row["method"]
        assert (row["status"], row["round"]) == ("finished", str(ROUNDS)), method
        assert 0 <= float(row["loss"]) < math.inf and 0 <= float(row["test_accuracy"]) <= 1, method
        assert all(0 < float(row[cost]) < math.inf for cost in COSTS), method
    for run in (folder / "runs").iterdir():
        first, *_, last = read_rows(run / "metrics.jsonl")
        assert last.loss != first.loss, run.name
