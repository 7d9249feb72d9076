import csv
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from surmin.cli import main
from surmin.commands import simulate as simulate_module
from surmin.commands.simulate import simulate, summary
from surmin.experiments.configs.simulate import SimulateConfig
from surmin.experiments.simulated.outcomes import LinkCell, Outcome
from surmin.experiments.simulated.runs import MeasuredRun
from surmin.simulation import team
from surmin.simulation.measuring import Trained
from surmin.simulation.operations import Overheads
from tests.plots.cases import picture_size

CONFIG = SimulateConfig(
    methods="sm,adam", train_samples=120, layers=4, width=8, stages="3,40", microbatches="3,4", latencies="0,20",
    rates="1000,1", lr=("adam=0.02,0.05",), target_loss=0.5, rounds=60,
)  # fmt: skip


def read_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(autouse=True)
def _known_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_module, "measure_overheads", lambda: Overheads(1e-5, 1e-10))


def test_the_map_and_its_rows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "map"
    assert simulate(replace(CONFIG, lr=("adam=0.05",)), folder) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["breakeven.csv", "breakeven.png", "config.json"]
    assert picture_size(folder / "breakeven.png")[0] > 700
    rows = read_rows(folder / "breakeven.csv")
    assert {row["method"] for row in rows} == {"sm", "adam"}
    assert {row["schedule"] for row in rows if row["method"] == "adam"} == {"posted", "gpipe", "1f1b", "zero-bubble"}
    assert {(row["stages"], row["extrapolated"]) for row in rows} == {("3", "no"), ("40", "yes")}
    assert not [row for row in rows if row["schedule"] == "1f1b" and row["stages"] == "40"]  # too few micro-batches
    for stages in ("3", "40"):
        for latency in ("0", "20"):
            for rate in ("1000", "1"):
                here = [r for r in rows if (r["stages"], r["latency_ms"], r["rate_mbit"]) == (stages, latency, rate)]
                best = {
                    method: min(float(row["seconds"]) for row in here if row["method"] == method)
                    for method in ("sm", "adam")
                }
                for row in here:
                    other = best["adam" if row["method"] == "sm" else "sm"]
                    assert float(row["over_best_other"]) == pytest.approx(float(row["seconds"]) / other, rel=1e-3)
                    assert (row["best_of_method"] == "yes") == (float(row["seconds"]) == best[row["method"]])
    slow, fast = (
        [float(row["seconds"]) for row in rows if (row["latency_ms"], row["rate_mbit"]) == links]
        for links in (("20", "1"), ("0", "1000"))
    )
    assert all(far > near for far, near in zip(slow, fast, strict=True))
    output, errors = capfd.readouterr()
    assert "1f1b needs a micro-batch for every stage: left out with 40 stages" in errors
    assert "M: micro-batches; N: inner steps; batch: samples of a mini-batch" in output
    assert "cells" in output and f"written: {folder / 'breakeven.csv'}" in output


def test_mini_batches_of_those_that_can_use_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, stages="2", microbatches="3", batch_sizes="0,2,40,500", schedules="posted,1f1b")
    assert simulate(config, tmp_path / "map") == 0
    assert "batch size 2: cannot be cut into 3 micro-batches; left out" in capfd.readouterr().err
    rows = read_rows(tmp_path / "map" / "breakeven.csv")
    assert {(row["method"], row["batch_size"]) for row in rows} == {("sm", ""), ("adam", ""), ("adam", "39")}
    by_size = {row["batch_size"]: row for row in rows if row["method"] == "adam"}
    one, whole = (float(by_size[size]["megabytes"]) / int(by_size[size]["rounds"]) for size in ("39", ""))
    assert one == pytest.approx(39 / 120 * whole, rel=1e-4)  # megabytes have six digits


def test_what_does_not_reach_the_loss_is_said_and_has_no_row(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, stages="2", microbatches="1", lr=("adam=0.000001",), schedules="posted")
    assert simulate(config, tmp_path / "map") == 0
    captured = capfd.readouterr()
    assert "adam, lr 1e-06, 2 stages, 1 micro-batch: a loss of 0.5: does not reach it in 60 rounds" in captured.err
    assert "not reached" in captured.out
    rows = read_rows(tmp_path / "map" / "breakeven.csv")
    assert {row["method"] for row in rows} == {"sm"} and {row["over_best_other"] for row in rows} == {""}


def test_nothing_is_written_where_nobody_reaches_the_loss(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, stages="2", microbatches="1", target_loss=1e-9, rounds=2)
    assert simulate(config, tmp_path / "map") == 2
    assert not (tmp_path / "map").exists()
    assert "no method reaches the loss" in capfd.readouterr().err


def test_the_summary_says_where_it_loses_most() -> None:
    def outcome(seconds: float) -> Outcome:
        return Outcome(
            MeasuredRun("sm", None, None, None, 4, 1, Trained([], 1, 1, 1, 1)), "posted", 4, 0.01, 1e8, seconds, 1, 1
        )

    cells = [LinkCell(4, 0.01, 1e8, outcome(own), outcome(2.0)) for own in (1.0, 3.0, 5.0)]
    missed = LinkCell(4, 0.1, 1e8, None, outcome(1.0))
    assert summary("sm", [*cells, missed]) == (
        "sm is faster in 1 of 4 cells, does not reach the loss in 1 and loses most with "
        "4 stages over 10 ms and 100 Mbit/s: 2.5 times the seconds of the best other"
    )
    assert summary("sm", cells[:1]) == "sm is faster in 1 of 1 cells"
    assert summary("sm", [missed] * 2) == "sm is faster in 0 of 2 cells, does not reach the loss in 2"
    alone, nobody = LinkCell(4, 0.1, 1e8, outcome(1.0), None), LinkCell(4, 0.1, 1e8, None, None)
    assert summary("sm", [alone, nobody]) == "sm is faster in 1 of 1 cells"


def test_cores_that_are_shared_make_it_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(step=100_000)
    monkeypatch.setattr(team, "worker_clock", lambda _: lambda: next(ticks))  # every piece of work takes as long
    seconds = []
    for cores in (None, 1.0):
        config = replace(CONFIG, stages="3", microbatches="3", schedules="posted", cores=cores, rates="100000")
        folder = tmp_path / f"cores-{cores}"
        assert simulate(config, folder) == 0
        rows = read_rows(folder / "breakeven.csv")
        seconds.append(sum(float(row["seconds"]) for row in rows if row["latency_ms"] == "0"))
    assert seconds[1] > seconds[0]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--methods", "sm"], "name at least two"),
        (["--methods", "sm,ddg"], "'ddg' cannot be simulated; choose from sm"),
        (["--schedules", "posted,dual"], "unknown 'dual'"),
        (["--latencies", "-1"], "latencies: '-1' is not a positive number"),
        (["--rates", "0"], "rates: '0' is not a positive number"),
        (["--rates", ","], "rates: give at least one number"),
        (["--batch-sizes", "2.5"], "batch_sizes: 2.5 is not a whole number"),
        (["--stages", "2.5"], "stages: 2.5 is not a whole number"),
        (["--microbatches", "0"], "microbatches: '0' is not a positive number"),
        (["--cores", "0"], "cores must be a positive number"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--cores", "2", "--threads", "2"], "cores are shared by workers with one thread each"),
        (["--methods", "adam,lbfgs", "--preset", "links"], "none of the methods adam,lbfgs takes --preset"),
        (["--methods", "cgblock,adam", "--damping", "1"], "none of the methods cgblock,adam takes --damping"),
        (["--delta", "1"], "delta does nothing with curvature factor: leave it out"),
        (["--methods", "adam,lbfgs", "--inner-steps", "5"], "inner_steps are for sm, sm-paper, cgblock, none of them"),
        (["--layers", "2", "--stages", "9"], "a network of 2 layers cannot stand for 9 stages"),
        (["--lr", "adam=fast"], "'fast' is not a positive number"),
    ],
)
def test_bad_options_are_refused_in_a_line(
    words: list[str], complaint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = ["--train-samples", "40", "--width", "4", "--layers", "4"]
    folder = tmp_path / "map"
    assert main(["simulate", *small, *words, "--out", str(folder)]) == 2
    error = capfd.readouterr().err.strip()
    assert complaint in error and len(error.splitlines()) == 1
    assert not folder.exists()
