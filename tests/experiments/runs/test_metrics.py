import json
import math
import re
from pathlib import Path

import pytest

from surmin.experiments.runs.metrics import Evaluation, Row, append_row, figures_of, read_rows, write_rows
from surmin.report import StepReport

KEYS = [
    "round", "loss", "test_accuracy", "seconds", "gradient_equivalents", "messages", "bytes", "forward_waves",
    "accepted", "damping", "reduction_ratio",
]  # fmt: skip


def make_report(damping: float = 0.5) -> StepReport:
    return StepReport(
        loss=2.0, new_loss=1.0, predicted_decrease=1.5, reduction_ratio=2 / 3, damping=damping, accepted=True, tries=1,
        gradient_norm=1.0, gradient_equivalents=4.5, bytes_sent=100, messages=10, forward_waves=2,
    )  # fmt: skip


def make_rows() -> list[Row]:
    start = Row.start(Evaluation(2.3, 0.1))
    first = start.next(make_report(), 0.25).evaluated(Evaluation(2.0, 0.2))
    return [start, first, first.next(make_report(), 0.5).evaluated(Evaluation(1.0, 0.3))]


def test_the_keys_of_the_contract_and_cumulative_counters(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, make_rows())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(list(line) == KEYS for line in lines)
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert lines[0]["accepted"] is None and lines[0]["damping"] is None and lines[0]["seconds"] == 0
    last = {key: lines[2][key] for key in ("seconds", "gradient_equivalents", "messages", "bytes", "forward_waves")}
    assert last == {"seconds": 0.75, "gradient_equivalents": 9.0, "messages": 20, "bytes": 200, "forward_waves": 4}


def test_what_is_not_finite_is_null() -> None:
    row = make_rows()[0].next(make_report(damping=math.nan), 0.1).evaluated(Evaluation(math.inf, 0.1))
    assert row.damping is None and row.loss is None


def test_read_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for row in make_rows():
        append_row(path, row)
    assert read_rows(path) == make_rows()


@pytest.mark.parametrize("kept", [1, 20, 100])
def test_a_torn_last_line_is_left_out(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, make_rows())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:kept])
    assert read_rows(path) == make_rows()[:2]


@pytest.mark.parametrize("damage", ["nonsense\n", '{"round": 0}\n', '{"round": 0, "loss": "a", "test_accuracy": 1}\n'])
def test_another_damaged_line_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, make_rows())
    path.write_text(damage + path.read_text())
    with pytest.raises(ValueError, match=r"metrics.jsonl: line 1 is not a row of metrics"):
        read_rows(path)


def test_a_missing_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, make_rows()[1:])
    with pytest.raises(ValueError, match="line 1 should describe round 0, it says 1"):
        read_rows(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_rows(tmp_path / "absent")


def test_rows_may_be_rounds_apart_and_never_go_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    start, _, last = make_rows()
    assert last.round == 2
    write_rows(path, [start, last])
    assert read_rows(path) == [start, last]
    write_rows(path, [start, last, last])
    with pytest.raises(ValueError, match="line 3 should describe a round after 2, it says 2"):
        read_rows(path)


@pytest.mark.parametrize("broken", ['"seconds": null', '"loss": NaN', '"messages": Infinity'])
def test_a_row_without_its_numbers_is_refused(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write_rows(path, make_rows()[:1])
    name = broken.partition(":")[0]
    line = re.sub(rf"{name}: [^,}}]+", broken, path.read_text())
    path.write_text(line)
    with pytest.raises(ValueError, match="line 1 is not a row of metrics"):
        read_rows(path)


def test_a_test_loss_is_in_the_test_accuracy_s_place(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    start = Row.start(Evaluation(2.3, test_loss=2.5))
    rows = [start, start.next(make_report(), 0.25).evaluated(Evaluation(2.0, test_loss=2.2))]
    write_rows(path, rows)
    keys = ["test_loss" if key == "test_accuracy" else key for key in KEYS]
    assert [list(json.loads(line)) for line in path.read_text().splitlines()] == [keys, keys]
    assert read_rows(path) == rows
    assert list(figures_of([rows[1].lost(), *rows])) == keys and list(figures_of(make_rows())) == KEYS
    assert rows[1].lost().test_loss is None
