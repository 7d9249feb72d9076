import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from surmin import __version__
from surmin.cli import main, parse
from surmin.exit_codes import INTERRUPTED, UNEXPECTED
from surmin.experiments.comparisons import completing
from surmin.experiments.comparisons.paper import estimate, finished, run_paper, runs_left
from surmin.experiments.comparisons.paper_results import write_milestones, write_paper_results
from surmin.experiments.comparisons.paper_runs import (
    TUNING_SEED,
    Cell,
    PaperResult,
    cells,
    result_runs,
    run_count,
    tuning_runs,
)  # fmt: skip
from surmin.experiments.configs.paper import PaperConfig
from surmin.experiments.configs.ranges import MOST
from surmin.experiments.configs.saved import document
from surmin.experiments.files import write_json
from surmin.experiments.runs.metrics import Row
from surmin.experiments.runs.status import Status
from surmin.plots.paper import draw_paper
from surmin.plots.style import save
from tests.experiments.comparisons.test_compare import interrupt_during
from tests.experiments.runs.cases import contents, rows_of

TINY = PaperConfig(
    train_samples=40, width=6, depths=(2, 3), inner_steps=(1, 2), methods="sm,gd,gd-armijo", rounds=4, seeds=2,
    dtype="float64",
)  # fmt: skip


def made(layers: int, contender: str, steps: int | None, losses: list[float | None], rate: int = 6) -> PaperResult:
    """A result with these losses, one a round, and `rate` messages a round."""
    run = result_runs(replace(TINY, seeds=1), Cell(layers, contender, steps), [])[0]
    rows = [Row(number, loss, 0.5, messages=rate * number) for number, loss in enumerate(losses)]
    return PaperResult(run, rows, "diverged" if losses[-1] is None else "finished")


def reached(*arguments: Any) -> PaperResult:
    return replace(made(*arguments), status="reached")


def stopping_at(target_loss: float, result: PaperResult) -> PaperResult:
    return replace(result, run=replace(result.run, config=replace(result.run.config, target_loss=target_loss)))


def test_the_grid() -> None:
    found = cells(TINY)
    assert found[:4] == [Cell(2, "sm", 1), Cell(2, "sm", 2), Cell(2, "gd", None), Cell(2, "gd-armijo", None)]
    assert len(found) == 8 and run_count(TINY) == 8 * 2 + 4 * 3 + 2 * 5
    tuning = tuning_runs(TINY, found[0])
    assert [run.config.damping for run in tuning] == [1e-3, 1e-2, 1e-1]
    assert {(run.config.seed, run.config.rounds, run.config.inner_steps) for run in tuning} == {(TUNING_SEED, 1, 1)}
    assert tuning_runs(TINY, found[3]) == []
    names = [run.name for cell in found for run in (*tuning_runs(TINY, cell), *result_runs(TINY, cell, []))]
    assert len(set(names)) == len(names) == run_count(TINY)


def test_a_setting_of_several_numbers(tmp_path: Path) -> None:
    """Every combination is a run of its own, with a folder and words of its own, and is found again."""
    config = replace(TINY, methods="sm-trips", depths=(2,), inner_steps=(1,), rounds=2, seeds=1)
    results = run_paper(config, tmp_path, {})
    tried = [(run.config.damping, run.config.damping_candidates) for run in (result.run for result in results[:6])]
    assert len(set(tried)) == 6 and {len(candidates or ()) for _, candidates in tried} == {2, 4}
    assert results[1].run.name == "layers2/sm-trips-N1-damping0.0001-damping_candidates0.03_0.1_0.3_1-tuning"
    write_paper_results(tmp_path / "results.csv", results)
    assert '"damping 0.0001, damping candidates 0.03 0.1 0.3 1",tuning' in (tmp_path / "results.csv").read_text()
    made_before = contents(tmp_path / "runs")
    assert [result.run for result in run_paper(config, tmp_path, {})] == [result.run for result in results]
    assert contents(tmp_path / "runs") == made_before


@pytest.mark.parametrize(
    ("ends", "chosen"),
    [
        ([("finished", 4, 0.3), ("finished", 4, 0.2), ("diverged", 2, None)], 1e-2),
        ([("finished", 4, 1e-7), ("reached", 3, 1e-6), ("reached", 2, 1e-6)], 1e-1),
    ],
)
def test_the_setting_that_tuned_best_is_taken(ends: list[tuple[Status, int, float | None]], chosen: float) -> None:
    cell = Cell(2, "sm", 1)
    pairs = zip(tuning_runs(TINY, cell), ends, strict=True)
    tuning = [PaperResult(run, [Row(rounds, loss, 0.5)], status) for run, (status, rounds, loss) in pairs]
    runs = result_runs(TINY, cell, tuning)
    assert [(run.config.damping, run.seed, run.config.rounds) for run in runs] == [(chosen, 0, 4), (chosen, 1, 4)]


def test_an_interrupted_grid_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, depths=(2,), methods="sm,gd")
    whole = run_paper(config, tmp_path / "whole", {})
    assert len(whole) == run_count(config) and {result.status for result in whole} == {"finished"}
    with monkeypatch.context() as patch:
        patch.setattr(completing, "Run", interrupt_during(13))
        part = run_paper(config, tmp_path / "part", {})
    assert [result.status for result in part] == ["finished"] * 12 + ["interrupted"]
    made_before = contents(tmp_path / "part" / "runs" / part[0].run.name)
    known = finished(config, tmp_path / "part")
    assert set(known) == {result.run.name for result in part[:12]}
    continued = run_paper(config, tmp_path / "part", known)
    assert contents(tmp_path / "part" / "runs" / part[0].run.name) == made_before
    assert [result.run for result in continued] == [result.run for result in whole]
    for result in whole:
        name = result.run.name
        losses = [[row.loss for row in rows_of(tmp_path / kind / "runs" / name)] for kind in ("part", "whole")]
        assert losses[0] == losses[1]


def test_what_is_finished_stays_in_the_table_while_more_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "grid"
    assert main([*WORDS, "--methods", "gd-armijo", "--out", str(folder)]) == 0
    monkeypatch.setattr(completing, "Run", interrupt_during(8))  # one is timed, six are tuned
    assert main(["paper", "--resume", str(folder), "--methods", "gd-armijo,adam"]) == INTERRUPTED
    lines = (folder / "results.csv").read_text().splitlines()[1:]
    assert [line.rsplit(",", 1)[1] for line in lines] == ["finished"] * 7 + ["interrupted"]
    assert lines[0].startswith("2,gd-armijo,,,result,0,2,")


def test_where_tuning_is_not_complete_its_results_are_not_known(tmp_path: Path) -> None:
    config = replace(TINY, methods="gd,gd-armijo", depths=(2,), rounds=1, seeds=1)
    results = run_paper(config, tmp_path, {})
    assert list(finished(config, tmp_path).values()) == results
    shutil.rmtree(tmp_path / "runs" / results[0].run.name)
    known = finished(config, tmp_path)
    assert list(known) == [result.run.name for result in results if result not in (results[0], results[-2])]
    assert [result.run for result in run_paper(config, tmp_path, known)] == [result.run for result in results]


@pytest.mark.slow
def test_several_jobs_find_the_same(tmp_path: Path) -> None:
    config = replace(TINY, methods="gd", depths=(2,), rounds=2)
    one, two = run_paper(config, tmp_path / "one", {}), run_paper(replace(config, jobs=2), tmp_path / "two", {})
    assert [(r.run, [row.loss for row in r.rows]) for r in one] == [(r.run, [row.loss for row in r.rows]) for r in two]


def test_a_method_that_diverges_does_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, methods="gd,gd-armijo", depths=(2,), seeds=1)
    monkeypatch.setattr("surmin.methods.first_order.gradient_descent.__kwdefaults__", {"lr": 1e200})
    monkeypatch.setattr("surmin.experiments.comparisons.paper_runs.Cell.settings", [{}])
    results = run_paper(config, tmp_path, {})
    assert [result.status for result in results] == ["diverged", "finished"]
    assert results[0].quality == (math.inf, math.inf)
    write_paper_results(tmp_path / "results.csv", results)
    assert (tmp_path / "results.csv").read_text().splitlines()[1].endswith(",diverged")


def test_the_estimate_scales_what_was_timed(tmp_path: Path) -> None:
    config = replace(TINY, methods="gd", depths=(2,), rounds=300)
    (first,) = estimate(config, {}, tmp_path / "a").values()
    (second,) = estimate(replace(config, rounds=3_000_000), {}, tmp_path / "b").values()
    assert 0 < first < second


def test_what_is_left_of_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, methods="gd,gd-armijo", depths=(2,))
    tuned, plain = cells(config)
    assert [len(runs_left(config, cell, {})) for cell in (tuned, plain)] == [7, 2]
    with monkeypatch.context() as patch:
        patch.setattr(completing, "Run", interrupt_during(7))
        made = run_paper(config, tmp_path, {})
    known = finished(config, tmp_path)
    (left,) = runs_left(config, tuned, known)
    assert left.name == made[-1].run.name and made[-1].status == "interrupted"
    assert set(estimate(replace(config, methods="gd"), known, tmp_path / "scratch")) == {tuned}
    run_paper(config, tmp_path, {})
    known = finished(config, tmp_path)
    assert not runs_left(config, tuned, known) and not estimate(config, known, tmp_path / "scratch")
    assert len(runs_left(replace(config, seeds=3), tuned, known)) == 1


def test_a_method_that_cannot_run_is_refused_with_those_that_can(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--methods", "sm,locoprop,gd", "--activation", "gelu", "--out", str(tmp_path / "grid")]
    assert main(words) == 2
    error = capfd.readouterr().err
    assert "locoprop cannot run with 2 layers: " in error and error.endswith("; these can: --methods sm,gd\n")


def test_milestones(tmp_path: Path) -> None:
    results = [
        reached(2, "sm", 1, [2.0, 1e-4], 10), made(2, "gd", None, [2.0, *[1.0] * 49, 0.5, 0.25]),
        made(2, "gd", None, [2.0, *[1.0] * 49]), made(2, "gd", None, [2.0, None]),
        replace(made(2, "gd", None, [1.0]), run=tuning_runs(TINY, Cell(2, "gd", None))[0]),
    ]  # fmt: skip
    write_milestones(tmp_path / "milestones.csv", results)
    names, *lines = (line.split(",") for line in (tmp_path / "milestones.csv").read_text().splitlines())
    first, second, *rest = (dict(zip(names, line, strict=True)) for line in lines)
    assert (first["loss_at_50"], first["messages_to_0.001"], first["round_to_0.001"]) == ("0.0001", "10", "1")
    assert (second["loss_at_50"], second["messages_to_0.001"]) == ("0.5", "")
    assert [line["loss_at_50"] for line in rest] == ["", "inf"]  # given 49 rounds; diverged


WORDS = [
    "paper",
    "--train-samples",
    "40",
    "--width",
    "6",
    "--depths",
    "2",
    "--inner-steps",
    "1",
    "--rounds",
    "2",
    "--seeds",
    "1",
]


@pytest.mark.slow
def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "grid"
    assert main([*WORDS, "--methods", "sm,gd-armijo", "--out", str(folder)]) == 0
    output, errors = capfd.readouterr()
    assert errors == "" and "at most" in output and "report.html" in output
    pages = {f"layers2{end}" for end in (".html", ".md", "-paper.png", "-paper-costs-N1.png")}
    files = {*pages, "report.html", "config.json", "results.csv", "milestones.csv", "runs"}
    assert {path.name for path in folder.iterdir()} == files
    before = contents(folder / "runs")
    capfd.readouterr()
    assert main(["paper", "--resume", str(folder)]) == 0
    assert capfd.readouterr().out.startswith("all 5 runs are there\n")
    assert main(["paper", "--resume", str(folder), "--methods", "sm,gd-armijo,adam"]) == 0
    assert capfd.readouterr().out.startswith("7 of 12 runs left, 1 at a time: at most")
    assert (folder / "layers2-first-order-costs-N1.png").exists()
    assert before.items() <= contents(folder / "runs").items()
    capfd.readouterr()
    assert main(["paper", "--resume", str(folder), "--width", "7"]) == 2
    assert capfd.readouterr().err == "surmin: --width cannot change on resuming: the run has 6, not 7\n"
    config = json.loads((folder / "config.json").read_text())
    config["environment"]["surmin"] = "0.0.1"
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["paper", "--resume", str(folder)]) == 2
    assert "written by surmin 0.0.1" in capfd.readouterr().err


def test_a_grid_goes_on_where_it_began(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made_by = {"surmin": __version__, "device": "another GPU"}
    write_json(tmp_path / "config.json", document(TINY, environment=made_by))
    assert main(["paper", "--resume", str(tmp_path), "--jobs", "2"]) == 2
    assert capfd.readouterr().err == "surmin: --jobs cannot change on resuming: the run has 1, not 2\n"
    assert main(["paper", "--resume", str(tmp_path)]) == 2
    assert "its times are of another GPU, and this is " in capfd.readouterr().err


def test_losses_of_every_n_are_in_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[float, float]] = []

    def note_and_save(figure: Figure, path: Path) -> None:
        limits.append(figure.axes[-2].get_ylim())
        save(figure, path)

    monkeypatch.setattr("surmin.plots.paper.save", note_and_save)
    results = [made(2, "sm-paper", 1, [2.0, 1.0]), made(2, "sm-paper", 2, [2.0, 1e-4])]
    draw_paper(tmp_path, replace(TINY, depths=(2,), methods="sm-paper", seeds=1), results)
    assert limits[0][0] <= 1e-4 and limits[0][1] >= 2.0


def test_a_run_that_torch_cannot_go_on_with_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def out_of_memory(*_: object) -> None:
        raise RuntimeError("out of\nmemory")

    folder = tmp_path / "grid"
    with monkeypatch.context() as patch:
        patch.setattr("surmin.methods.gd_armijo.ArmijoDescent.step", out_of_memory)
        assert main([*WORDS, "--methods", "sm,gd-armijo", "--out", str(folder)]) == UNEXPECTED
    name = "layers2/gd-armijo-seed0"
    assert f"failed: {name}, try it again with --resume {folder}: out of memory\n" in capfd.readouterr().out
    assert [line.rsplit(",", 1)[1] for line in (folder / "results.csv").read_text().splitlines()].count("failed") == 1
    assert "failed" in (folder / "layers2.md").read_text()
    assert main(["paper", "--resume", str(folder)]) == 0
    assert "failed" not in capfd.readouterr().out + (folder / "results.csv").read_text()


def test_an_interrupted_grid_gives_no_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "grid"
    monkeypatch.setattr(completing, "Run", interrupt_during(6))  # two were timed, three tuned
    assert main([*WORDS, "--methods", "sm,gd-armijo", "--out", str(folder)]) == INTERRUPTED
    output = capfd.readouterr().out
    assert f"interrupted after 4 of 5 runs; continue with --resume {folder}" in output and "holds" not in output
    assert {path.name for path in folder.iterdir()} == {"config.json", "results.csv", "runs"}
    monkeypatch.undo()
    assert main(["paper", "--resume", str(folder)]) == 0
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "sm,foo"], "unknown method 'foo'"),
        (["--methods", ","], "name at least one method"),
        (["--depths", "0"], "depths must be one or more different whole numbers from 1 up"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--target-loss", "0"], "target_loss must be a positive number"),
        (["--seed", str(MOST["seed"] - 999)], "seed must be at most"),
        (["--seeds", "1001"], "seeds must be at most 1,000, got 1,001: settings are chosen on the one after them"),
        (["--data", "nowhere"], "nowhere"),
        (["--activation", "cube"], "cube"),
    ],
)
def test_bad_options(words: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, *words, "--out", str(tmp_path / "grid")]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "grid").exists()


def test_the_quick_grid_leaves_what_is_given() -> None:
    def quick(*words: str) -> tuple[int | None, ...]:
        config = parse(["paper", "--quick", *words])[1].config
        return config.train_samples, config.width, config.rounds, config.seeds, config.jobs

    assert quick() == (300, 32, 40, 2, 2)
    usual = PaperConfig()
    assert quick("--width", str(usual.width), "--rounds", str(usual.rounds), "--seeds", str(usual.seeds)) == (
        300, usual.width, usual.rounds, usual.seeds, 2
    )  # fmt: skip
    assert quick("--jobs", "1", "--train-samples", "9") == (9, 32, 40, 2, 1)


def test_ctrl_c_ends_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(completing, "Run", interrupt_during(1))
    assert main([*WORDS, "--methods", "sm,gd-armijo", "--out", str(tmp_path / "grid")]) == INTERRUPTED
    assert capfd.readouterr().err == "surmin: interrupted\n" and not (tmp_path / "grid").exists()
