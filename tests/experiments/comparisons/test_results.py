import csv
import math
from pathlib import Path
from typing import Literal

from surmin.experiments.comparisons.completing import Result
from surmin.experiments.comparisons.grid import PlannedRun
from surmin.experiments.comparisons.results import CompareResult, Spread, choose, summarize, write_results
from surmin.experiments.runs.metrics import Row
from surmin.experiments.runs.status import Status
from surmin.plots.tables import runs_table, summary_table
from tests.experiments.runs.cases import tiny_run


def make_result(
    method: str, lr: float | None, seed: int, rounds: int, loss: float | None, status: Status | Literal["failed"]
) -> CompareResult:
    run = PlannedRun(method, lr, seed, tiny_run(method=method, lr=lr, seed=seed))
    return Result(run, [Row(0, 2.3, 0.1), Row(rounds, loss, 0.9, seconds=rounds / 10, messages=6 * rounds)], status)


RESULTS = [
    make_result("sm", None, 0, 10, 1e-4, "reached"),
    make_result("sm", None, 1, 14, 2e-4, "reached"),
    make_result("adam", 0.1, 0, 90, 1e-3, "reached"),
    make_result("adam", 0.1, 1, 300, 2e-3, "finished"),
    make_result("adam", 0.2, 0, 100, 1e-3, "reached"),
    make_result("adam", 0.2, 1, 120, 1e-3, "reached"),
    make_result("gd", 0.1, 0, 300, 1.5, "finished"),
    make_result("gd", 0.1, 1, 300, 1.4, "finished"),
    make_result("gd", 9.0, 0, 4, None, "diverged"),
    make_result("gd", 9.0, 1, 300, 0.5, "finished"),
]


def test_the_best_rate_reaches_the_target_in_the_fewest_rounds_else_ends_lowest() -> None:
    assert {method: group[0].run.lr for method, group in choose(RESULTS).items()} == {
        "sm": None,
        "adam": 0.2,
        "gd": 0.1,
    }


def test_a_run_that_failed_is_worse_than_any_other() -> None:
    """At 0.1 the one that is left was faster than both at 0.2."""
    found = choose([make_result("adam", 0.1, 0, 3, None, "failed"), *RESULTS[2:3], *RESULTS[4:6]])
    assert found["adam"][0].run.lr == 0.2


def test_summaries_are_medians_with_extremes() -> None:
    sm, adam, gd = summarize(RESULTS)
    assert (sm.label, adam.label, gd.label) == ("sm", "adam, lr 0.2", "gd, lr 0.1")
    rounds = sm.figures["round"]
    assert (rounds.median, rounds.low, rounds.high) == (12, 10, 14)
    assert sm.statuses == "reached"
    assert summarize(RESULTS[8:])[0].statuses == "1 diverged, 1 finished"


def test_a_run_that_diverged_has_the_worst_of_every_figure() -> None:
    rows = [Row(9, 0.5, 0.95), Row(9, 0.1, 0.9), Row(4, None, None)]
    found = {figure: Spread.of(figure, rows) for figure in ("loss", "test_accuracy")}
    assert found == {"loss": Spread(0.5, 0.1, math.inf), "test_accuracy": Spread(0.9, -math.inf, 0.95)}


def test_the_table_lists_every_run(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_results(path, RESULTS)
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        "method", "lr", "seed", "round", "loss", "test_accuracy", "seconds", "gradient_equivalents", "messages",
        "bytes", "forward_waves", "accepted", "damping", "reduction_ratio", "status", "chosen",
    ]  # fmt: skip
    assert [line["chosen"] for line in lines] == ["yes", "yes", "no", "no", "yes", "yes", "yes", "yes", "no", "no"]
    assert (lines[0]["lr"], lines[0]["damping"], lines[8]["loss"], lines[8]["status"]) == ("", "", "", "diverged")
    assert float(lines[2]["loss"]) == 1e-3


def test_where_there_are_no_labels_the_table_has_test_losses(tmp_path: Path) -> None:
    def result(method: str, losses: list[float | None]) -> CompareResult:
        rows = [Row(number, loss, test_loss=loss) for number, loss in enumerate(losses)]
        run = PlannedRun(method, None, 0, tiny_run(method=method))
        return Result(run, rows, "diverged" if losses[-1] is None else "finished")

    results = [result("gd", [2.0, None]), result("sm", [2.0, 0.5])]
    write_results(tmp_path / "results.csv", results)
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert "test_accuracy" not in lines[0] and [line["test_loss"] for line in lines] == ["", "0.5"]
    _, sm = summarize(results)
    assert "test_accuracy" not in sm.figures and sm.figures["test_loss"] == Spread(0.5, 0.5, 0.5)
    for table in (summary_table(summarize(results), ranges=True), runs_table(results)):
        at = table.headings.index("test loss")
        assert "test accuracy" not in table.headings and [row[at] for row in table.rows] == ["–", "0.5"]
