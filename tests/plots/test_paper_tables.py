from dataclasses import replace
from typing import Literal

from surmin.experiments.runs.metrics import Row
from surmin.experiments.runs.status import Status
from surmin.plots.paper_tables import Groups, cell_table, cost_table, final_table
from tests.experiments.comparisons.test_paper import made, stopping_at

GROUPS: Groups = {
    results[0].run.cell: results
    for results in (
        [made(2, "sm", 1, [2.0, 1e-3, 1e-7]), made(2, "sm", 1, [2.0, 0.5, 1e-3])],
        [made(2, "sm", 2, [2.0, 0.25]), made(2, "sm", 2, [2.0, 0.5])],
        [made(2, "gd", None, [2.0, None]), made(2, "gd", None, [2.0, None])],
        [made(2, "adam", None, [2.0, 1.0, 9e-4]), made(2, "adam", None, [2.0, None])],
    )
}


def test_how_runs_ended() -> None:
    table = final_table(GROUPS)
    assert table.headings == ["method", "N = 1", "N = 2"]
    assert table.rows == [
        ["sm", "0.0005, 50.0 %\n≤ 1e-06 to 0.001", "0.38, 50.0 %\n0.25 to 0.5"],
        ["gd", "diverged", "diverged"],
        ["adam", "–, 50.0 %\n0.0009 to –", "–, 50.0 %\n0.0009 to –"],
    ]
    without_steps = {cell: group for cell, group in GROUPS.items() if cell.inner_steps is None}
    assert final_table(without_steps).headings == ["method", "at the end"]


def test_what_a_loss_cost() -> None:
    table = cost_table(GROUPS)
    rounds, messages = table.headings.index("rounds"), table.headings.index("messages")
    assert [[row[0], row[1], row[3], row[rounds], row[messages]] for row in table.rows] == [
        ["sm", "1", "2 of 2", "1.5\n1 to 2", "9\n6 to 12"],
        ["adam", "–", "1 of 2", "–\n2 to –", "–\n12 to –"],
    ]


def test_what_a_loss_below_the_target_would_have_cost_is_not_told() -> None:
    assert cost_table({cell: [stopping_at(0.01, each) for each in own] for cell, own in GROUPS.items()}).rows == []


def test_outcomes_are_counted_where_they_differ() -> None:
    ends: list[tuple[Status | Literal["failed"], float | None]] = [
        ("reached", 0.0),
        ("diverged", None),
        ("reached", 0.0),
    ]
    results = [replace(made(2, "gd", None, [2.0, loss]), status=status) for status, loss in ends]
    lost = [replace(made(2, "sm", 1, [2.0, None]), status=status) for status in ("failed", "diverged", "failed")]
    groups = {group[0].run.cell: group for group in (results, lost)}
    table = cell_table(groups)
    assert [row[table.headings.index("outcome")] for row in table.rows] == [
        "2 reached, 1 diverged", "2 failed, 1 diverged",
    ]  # fmt: skip
    assert final_table(groups).rows[1] == ["sm", "2 failed, 1 diverged"]


def test_a_seed_that_diverged_does_not_raise_the_accuracy() -> None:
    ends = [Row(1, 0.2, 0.95), Row(1, 0.1, 0.9), Row(1, None, None)]
    results = [replace(made(2, "gd", None, [2.0]), rows=[row]) for row in ends]
    groups = {results[0].run.cell: results}
    assert final_table(groups).rows == [["gd", "0.2, 90.0 %\n0.1 to –"]]
    assert "90.0 %\n– to 95.0 %" in cell_table(groups).rows[0]
