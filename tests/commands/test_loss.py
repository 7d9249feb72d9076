"""`--loss` on the command line: regressions, labels as numbers, losses of one's own."""

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from surmin.cli import main
from surmin.commands import simulate as simulate_module
from surmin.commands.training import describe_end
from surmin.experiments.runs.metrics import Row, read_rows
from surmin.methods.registry import METHODS
from surmin.simulation.operations import Overheads
from tests.experiments.runs.cases import save_regression

OWN_NAME = "lossesonworkers:Own"
OWN_CODE = "import surmin\n\n\nclass Own(surmin.SquaredError):\n    pass\n"


@pytest.fixture(autouse=True)
def _a_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a regression in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    save_regression(tmp_path)


def words(loss: str = "squared", data: str = "numbers.npz", rounds: int = 3) -> list[str]:
    """Of a small network and so many rounds."""
    network = ["--layers", "3", "--width", "5", "--stages", "3"]
    return ["--data", data, "--loss", loss, *network, "--rounds", str(rounds)]


def test_a_run_ends_with_its_test_loss(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words(), "--out", "run"]) == 0
    output, errors = capfd.readouterr()
    last = read_rows(Path("run/metrics.jsonl"))[-1]
    assert errors == "" and last.test_loss is not None and last.test_accuracy is None
    assert ", test loss " in output and "accuracy" not in output
    assert json.loads(Path("run/config.json").read_text())["options"]["loss"] == "squared"


def test_a_test_loss_that_overflows_is_no_accuracy() -> None:
    said = describe_end("finished", [Row(0, 1.0, test_loss=1.0), Row(1, 0.5)])
    assert said.endswith("loss 0.5, test loss –")


def test_every_method_trains_or_is_left_out(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("surmin.commands.compare.draw_comparison", lambda *_: None)
    assert main(["compare", "--methods", "all", *words(), "--out", "all"]) == 0
    output = capfd.readouterr().out
    assert "failed:" not in output
    with Path("all/results.csv").open(encoding="utf-8") as file:
        found = {row["method"]: row for row in csv.DictReader(file)}
    for method in METHODS:
        assert method in found or f"left out: {method} cannot run here: " in output
    assert {"sm", "sm-paper", "adam", "lbfgs", "kfac", "cgblock", "dladmm", "locoprop", "dni", "sso"} <= set(found)
    for method, row in found.items():
        assert row["status"] == "finished" and "test_accuracy" not in row, method
        assert all(math.isfinite(float(row[figure])) for figure in ("loss", "test_loss", "seconds")), method


def test_the_page_of_a_regression_has_no_accuracy() -> None:
    assert main(["compare", "--methods", "sm,adam", *words(), "--out", "two"]) == 0
    page = Path("two/report.html").read_text()
    assert "test loss" in page and "accuracy" not in page and "numbers, mlp 3 × 5, loss squared" in page


def test_labels_go_with_other_losses() -> None:
    for loss in ("squared", "logistic"):
        assert main(["train", *words(loss, "digits"), "--train-samples", "40", "--out", loss]) == 0
        first, *_, last = read_rows(Path(loss, "metrics.jsonl"))
        assert last.loss is not None and first.loss is not None and last.loss < first.loss
        assert last.test_loss is None and last.test_accuracy is not None


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_other_commands_take_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], loss: str
) -> None:
    monkeypatch.setattr(simulate_module, "measure_overheads", lambda: Overheads(1e-5, 1e-10))
    problem = ["--data", "digits", "--train-samples", "20", "--loss", loss, "--layers", "2", "--width", "4"]
    assert main(["check", *problem, "--trials", "2", "--out", "checked"]) == 0
    assert main(["timeline", *problem, "--workers", "1", "--microbatches", "2", "--out", "traced"]) == 0
    target = {"squared": "0.4", "logistic": "3.0"}[loss]  # of ten outputs
    simulated = ["--stages", "2", "--microbatches", "1", "--batch-sizes", "0", "--schedules", "posted"]
    assert (
        main(["simulate", *problem, *simulated, "--methods", "sm,adam", "--target-loss", target, "--out", "map"]) == 0
    )
    for folder, file in (("checked", "check.json"), ("map", "config.json")):
        assert json.loads(Path(folder, file).read_text())["options"]["loss"] == loss
    assert "left out" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_loss_of_one_s_own_on_workers_and_resumed(capfd: pytest.CaptureFixture[str]) -> None:
    Path("lossesonworkers.py").write_text(OWN_CODE)
    double = ["--dtype", "float64"]
    assert main(["train", *words(rounds=5), *double, "--out", "alone"]) == 0
    assert main(["train", *words(OWN_NAME), *double, "--workers", "2", "--out", "run"]) == 0
    capfd.readouterr()
    assert main(["train", "--resume", "run", "--workers", "1", "--rounds", "5"]) == 2
    assert "run was made with --loss lossesonworkers:Own: pass it again" in capfd.readouterr().err
    assert main(["train", "--resume", "run", "--workers", "1", "--rounds", "5", "--loss", OWN_NAME]) == 0
    rows, expected = (read_rows(Path(folder, "metrics.jsonl")) for folder in ("run", "alone"))
    for figure in ("loss", "test_loss"):
        found = [getattr(row, figure) for row in rows]
        assert found == pytest.approx([getattr(row, figure) for row in expected], rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "changes", "message"),
    [
        ("squred", {}, "unknown loss 'squred': did you mean 'squared'? choose cross-entropy, squared, logistic"),
        ("cross-entropy", {}, "numbers.npz: y_train has floating-point numbers, and cross-entropy needs"),
        ("logistic", {}, "numbers.npz: logistic targets must lie in [0, 1], got "),
        ("nowhere:Own", {}, "nowhere:Own: no module 'nowhere' in "),
        ("squared", {"y_train": np.full((40, 2), np.nan)}, "numbers.npz: y_train: contains NaN or infinity"),
        ("squared", {"y_test": np.zeros(12)}, "numbers.npz: targets are of width 2 in y_train and 1 in y_test"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(
    capfd: pytest.CaptureFixture[str], loss: str, changes: dict[str, NDArray[Any]], message: str
) -> None:
    save_regression(Path.cwd(), **changes)
    for command in ("train", "compare", "check"):
        given = words(loss) if command != "check" else ["--data", "numbers.npz", "--loss", loss]
        assert main([command, *given, "--out", "run"]) == 2
        assert message in capfd.readouterr().err
        assert not Path("run").exists()


@pytest.mark.slow
def test_workers_refuse_targets_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words("logistic"), "--workers", "2", "--out", "run"]) == 2
    assert "numbers.npz: logistic targets must lie in [0, 1], got " in capfd.readouterr().err
    assert not Path("run").exists()
