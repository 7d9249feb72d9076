import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from surmin import __version__
from surmin.commands.compare import compare
from surmin.exit_codes import SUCCESS, UNEXPECTED
from surmin.experiments.comparisons import completing
from surmin.experiments.comparisons.compare import Comparison
from surmin.experiments.comparisons.completing import finished_runs
from surmin.experiments.comparisons.grid import PlannedRun
from surmin.experiments.comparisons.results import choose
from surmin.experiments.configs.saved import document
from surmin.experiments.files import write_json
from surmin.experiments.runs.folder import written_by_one
from surmin.experiments.runs.metrics import Row, read_rows, write_rows
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.status import Status
from surmin.methods.registry import METHODS, flag
from tests.experiments.runs.cases import contents, resume, rows_of, start, tiny_comparison, tiny_run

CONFIG = tiny_comparison(methods="sm,adam", lr=("0.01,0.1",), seeds=2, rounds=3)


def results_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_run_has_its_folder_and_its_line(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    results = Comparison.start(CONFIG, tmp_path / "all").run(lambda run, row: seen.append((run.name, row.round)))
    assert [result.status for result in results] == ["finished"] * 6
    assert seen == [(result.run.name, number) for result in results for number in (1, 2, 3)]
    for line, result in zip(results_of(tmp_path / "all"), results, strict=True):
        last = read_rows(tmp_path / "all" / "runs" / result.run.name / "metrics.jsonl")[-1]
        assert (line["method"], int(line["seed"])) == (result.run.method, result.run.seed)
        assert float(line["loss"]) == last.loss and float(line["seconds"]) == last.seconds


def test_runs_of_a_seed_start_from_the_same_network(tmp_path: Path) -> None:
    results = Comparison.start(CONFIG, tmp_path / "all").run()
    starts = {(result.run.seed, result.rows[0].loss) for result in results}
    assert len(starts) == 2


def test_divergence_does_not_stop_the_rest(tmp_path: Path) -> None:
    config = tiny_comparison(methods="gd,adam", lr=("gd=1e200",), rounds=5)
    results = Comparison.start(config, tmp_path / "all").run()
    assert [result.status for result in results] == ["diverged", "finished"]
    assert [line["status"] for line in results_of(tmp_path / "all")] == ["diverged", "finished"]
    assert results_of(tmp_path / "all")[0]["loss"] == ""


def interrupt_during(number: int) -> type[Run]:
    """A run whose training, the given time, ends after one round as Ctrl-C ends it."""

    class Interrupted(Run):
        calls = 0

        def train(self, on_row: Callable[[Row], None] = lambda row: None) -> Status:
            Interrupted.calls += 1
            if Interrupted.calls != number:
                return super().train(on_row)
            full, self.config = self.config, replace(self.config, rounds=1)
            super().train(on_row)
            self.config = full
            return self.status

    return Interrupted


def test_an_interrupted_comparison_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Comparison.start(CONFIG, tmp_path / "whole").run()
    with monkeypatch.context() as patch:
        patch.setattr(completing, "Run", interrupt_during(3))
        results = Comparison.start(CONFIG, tmp_path / "part").run()
    assert [result.status for result in results] == ["finished", "finished", "interrupted"]
    assert [line["status"] for line in results_of(tmp_path / "part")] == ["finished", "finished", "interrupted"]
    trained: list[str] = []
    continued = Comparison.resume(tmp_path / "part", CONFIG, tmp_path / "part")
    continued.run(lambda run, row: trained.append(run.name))
    assert trained[0] == "adam-lr0.01-seed0" and trained.count("adam-lr0.01-seed0") == 2
    for run in continued.planned:
        assert rows_of(tmp_path / "part" / "runs" / run.name) == rows_of(tmp_path / "whole" / "runs" / run.name)


def test_what_is_finished_stays_in_the_table_while_more_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, seeds=1, lr=("0.01",))
    Comparison.start(config, tmp_path / "all").run()
    grown = replace(config, methods="gd,sm,adam")
    with monkeypatch.context() as patch:
        patch.setattr(completing, "Run", interrupt_during(1))
        Comparison.resume(tmp_path / "all", grown, tmp_path / "all").run()
    lines = [(line["method"], line["status"]) for line in results_of(tmp_path / "all")]
    assert lines == [("gd", "interrupted"), ("sm", "finished"), ("adam", "finished")]


def test_a_method_that_its_first_batch_refuses_does_not_end_the_others(tmp_path: Path) -> None:
    config = tiny_comparison(methods="sm,adam", rounds=2, data="text", model="gpt", rank="exact")
    comparison = Comparison.start(config, tmp_path / "all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surmin.curvature.factor.MAX_EXACT_COLUMNS", 10)
        results = comparison.run()
    assert [(result.run.method, result.status) for result in results] == [("sm", "failed"), ("adam", "finished")]
    assert "columns per sample" in results[0].failure


def test_a_run_that_fails_does_not_end_the_others_of_its_method(tmp_path: Path) -> None:
    """It counts as the worst there is, and is tried again."""

    class FailingOnce(Run):
        calls = 0

        def train(self, on_row: Callable[[Row], None] = lambda row: None) -> Status:
            FailingOnce.calls += 1
            if FailingOnce.calls == 1:
                raise RuntimeError("out of memory")
            return super().train(on_row)

    config = tiny_comparison(methods="adam", lr=("0.01,0.0001",), seeds=2, rounds=2)
    comparison = Comparison.start(config, tmp_path / "all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completing, "Run", FailingOnce)
        results = comparison.run()
    assert [result.status for result in results] == ["failed", *["finished"] * 3]
    assert [line["status"] for line in results_of(tmp_path / "all")] == ["failed", *["finished"] * 3]
    assert choose(results)["adam"][0].run.lr == 1e-4
    again = comparison.run()
    assert [result.status for result in again] == ["finished"] * 4
    assert choose(again)["adam"][0].run.lr == 0.01


def test_a_run_cut_off_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    config = tiny_comparison(methods="adam", rounds=2)
    comparison = Comparison.start(config, tmp_path / "all")
    comparison.run()
    folder = tmp_path / "all" / "runs" / comparison.planned[0].name
    expected = rows_of(folder)
    shutil.rmtree(folder / "checkpoint")
    write_rows(folder / "metrics.jsonl", [])
    Comparison.resume(tmp_path / "all", config, tmp_path / "all").run()
    assert rows_of(folder) == expected


def test_a_checkpoint_that_cannot_be_continued_does_not_end_the_others(tmp_path: Path) -> None:
    config = tiny_comparison(methods="adam,sgd", rounds=1)
    comparison = Comparison.start(config, tmp_path / "all")
    comparison.run()
    folder = tmp_path / "all" / "runs" / comparison.planned[0].name
    next(folder.rglob("*.safetensors")).write_bytes(b"")
    continued = Comparison.resume(tmp_path / "all", replace(config, rounds=2), tmp_path / "all")
    adam, sgd = continued.run()
    assert (adam.status, sgd.status) == ("failed", "finished")
    assert adam.failure.startswith(f"{folder} cannot be continued, remove it to begin that run anew: ")


def test_a_folder_that_another_process_has_just_claimed_is_not_emptied(tmp_path: Path) -> None:
    comparison = Comparison.start(tiny_comparison(methods="adam", rounds=1), tmp_path / "all")
    folder = tmp_path / "all" / "runs" / comparison.planned[0].name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with written_by_one(folder), pytest.raises(ValueError, match="is being written by another run"):
        comparison.run()
    assert contents(folder) == {"config.json": b"{}"}


def test_more_rounds_methods_and_seeds_continue_what_is_there(tmp_path: Path) -> None:
    Comparison.start(tiny_comparison(methods="adam", rounds=2), tmp_path / "all").run()
    before = contents(tmp_path / "all")
    larger = tiny_comparison(methods="sm,adam", rounds=4, seeds=2)
    results = Comparison.resume(tmp_path / "all", larger, tmp_path / "more").run()
    assert [result.last.round for result in results] == [4, 4, 4, 4]
    assert contents(tmp_path / "all") == before


def test_refusals_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank must be at least 1"):
        Comparison.start(tiny_comparison(methods="adam,sm", rank=0), tmp_path / "all")
    assert not (tmp_path / "all").exists()
    config = tiny_comparison(methods="adam", rounds=1)
    Comparison.start(config, tmp_path / "all").run()
    before = contents(tmp_path / "all")
    with pytest.raises(ValueError, match="is not empty"):
        Comparison.start(config, tmp_path / "all")
    with pytest.raises(ValueError, match="--layers cannot change on resuming"):
        Comparison.resume(tmp_path / "all", replace(config, layers=2), tmp_path / "all")
    with pytest.raises(ValueError, match="written by surmin compare, not surmin train"):
        resume(tmp_path / "all")
    assert contents(tmp_path / "all") == before


def test_all_leaves_out_what_cannot_run_and_says_why(tmp_path: Path) -> None:
    config = tiny_comparison(methods="all", width=64, rounds=0, data="digits")
    comparison = Comparison.start(config, tmp_path / "all")
    assert list(comparison.left_out) == ["newton"]
    assert "at most 2000 parameters" in comparison.left_out["newton"]
    assert {run.method for run in comparison.planned} == set(METHODS) - {"newton"}
    resumed = Comparison.resume(tmp_path / "all", config, tmp_path / "all")
    assert resumed.left_out == comparison.left_out


def test_a_method_that_cannot_run_is_refused_and_others_are_offered(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"newton cannot run here: .* Of the methods named, adam, sm can"):
        Comparison.start(tiny_comparison(methods="sm,newton,adam", width=64), tmp_path / "all")
    assert not (tmp_path / "all").exists()


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ValueError) as refused:
        Comparison.start(tiny_comparison(**options), folder)
    assert not folder.exists()
    return str(refused.value)


def test_where_no_method_named_can_run_the_others_are_offered(tmp_path: Path) -> None:
    said = refusal(tmp_path / "all", methods="newton", width=64)
    reason, _, offered = said.partition(". Others can: ")
    assert reason.startswith("newton cannot run here: newton needs a network of at most 2000 parameters")
    assert set(offered.split(", ")) == set(METHODS) - {"newton"}
    said = refusal(tmp_path / "all", methods="newton", width=64, safeguard="none")
    assert said.endswith(". Others can: cgblock")  # what is offered takes the options that were given


def test_nothing_is_offered_where_another_method_would_not_help(tmp_path: Path) -> None:
    assert refusal(tmp_path / "all", methods="sm", rank=0).startswith("rank must be at least 1")
    assert refusal(tmp_path / "all", methods="sm,gd", microbatches=7).startswith("60 samples cannot be cut into 7")


def test_every_learning_rate_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    options = {"rounds": 3, "dtype": "float32"}
    said = refusal(tmp_path / "all", methods="gd,sm", lr=("gd=0.1,1e39",), **options)
    assert said.startswith("gd cannot run here: lr must be at most 1e+38 in float32, got 1e+39")
    assert said.endswith(". Of the methods named, sm can")
    said = refusal(tmp_path / "all", methods="gd", lr=("0.1,1e39",), **options)  # others with a rate have the same one
    assert said == "lr must be at most 1e+38 in float32, got 1e+39"


def test_medians_are_said_to_be_over_the_seeds_that_were_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tiny_comparison(methods="sm,gd-armijo", seeds=2, rounds=2)
    monkeypatch.setattr("surmin.commands.compare.draw_comparison", lambda *_: None)
    for number, words in ((1, None), (3, "medians over up to 2 seeds;"), (9, "medians over 2 seeds;")):
        with monkeypatch.context() as patch:
            patch.setattr(completing, "Run", interrupt_during(number))
            compare(config, tmp_path / str(number), None)
        output = capfd.readouterr().out
        assert words in output if words else "medians over" not in output


def test_results_of_another_version_are_not_continued(tmp_path: Path) -> None:
    config = tiny_comparison(methods="adam", rounds=1)
    Comparison.start(config, tmp_path / "all").run()
    path = tmp_path / "all" / "config.json"
    path.write_text(path.read_text().replace(f'"surmin": "{__version__}"', '"surmin": "0.0.1"'))
    with pytest.raises(ValueError, match=r"written by surmin 0\.0\.1"):
        Comparison.resume(tmp_path / "all", config, tmp_path / "all")


def test_a_finished_run_counts_to_where_a_resumed_comparison_ends(tmp_path: Path) -> None:
    def found(**options: Any) -> list[tuple[str, int]]:
        run = PlannedRun("sm", None, 0, tiny_run(**options))
        return [(result.status, len(result.rows)) for result in finished_runs(tmp_path, [run]).values()]

    folder = tmp_path / "runs" / "sm-seed0"
    start(tiny_run(rounds=4, method="sm"), folder).train()
    assert found(rounds=2) == [("finished", 3)]
    assert found(target_loss=rows_of(folder)[1].loss) == [("reached", 2)]
    assert found(rounds=9) == []


def test_a_comparison_does_not_end_between_evaluations_of_a_run_that_has_gone_on(tmp_path: Path) -> None:
    config, folder = tiny_comparison(methods="gd", rounds=5, evaluate_every=2), tmp_path / "compared"
    Comparison.start(config, folder).run()
    before = contents(folder)
    with pytest.raises(ValueError, match=r"gd-lr0\.1-seed0 has no figures of round 3 .*: ask for 2 or 4 rounds"):
        Comparison.resume(folder, replace(config, rounds=3), folder)
    assert contents(folder) == before
    (shorter,) = Comparison.resume(folder, replace(config, rounds=4), folder).run()
    assert shorter.last.round == 4


@pytest.mark.parametrize("option", ["stages", "microbatches", "threads", "evaluate_every"])
def test_a_comparison_goes_on_with_the_same_cut_and_threads(option: str, tmp_path: Path) -> None:
    config = tiny_comparison(methods="gd", rounds=1)
    Comparison.start(config, tmp_path / "compared")
    with pytest.raises(ValueError, match=f"{flag(option)} cannot change on resuming"):
        Comparison.resume(tmp_path / "compared", replace(config, **{option: 3}), tmp_path / "compared")


def test_a_comparison_goes_on_where_it_began(tmp_path: Path) -> None:
    config, folder = tiny_comparison(methods="gd", rounds=1), tmp_path / "compared"
    Comparison.start(config, folder)
    write_json(folder / "config.json", document(config, environment={"surmin": __version__, "device": "another GPU"}))
    with pytest.raises(ValueError, match=r"its times are of another GPU, and this is .* start another folder"):
        Comparison.resume(folder, config, folder)


def test_an_option_that_does_nothing_is_refused_unless_another_method_takes_it(tmp_path: Path) -> None:
    said = refusal(tmp_path / "all", methods="sm,adam", delta=1.0)
    assert said.startswith("delta does nothing with curvature factor: leave it out, or choose --curvature scalar")
    assert refusal(tmp_path / "all", methods="sm,adam", preset="paper", rank=2).startswith("rank does nothing with")
    config = tiny_comparison(methods="sm,sm-paper,adam", delta=2.0)
    options = {run.method: run.config.delta for run in Comparison.start(config, tmp_path / "all").planned}
    assert options == {"sm": None, "sm-paper": 2.0, "adam": None}


@pytest.mark.slow
def test_a_method_that_torch_cannot_go_on_with_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def out_of_memory(*_: object) -> None:
        raise RuntimeError("out of\nmemory")

    config, folder = tiny_comparison(methods="sm,adam", rounds=1, seeds=2), tmp_path / "all"
    with monkeypatch.context() as patch:
        patch.setattr("surmin.minimizer.SurrogateMinimizer.step", out_of_memory)
        assert compare(config, folder, None) == UNEXPECTED
        output = capfd.readouterr().out
        for seed in (0, 1):
            assert f"failed: sm-seed{seed}, try it again with --resume {folder}: out of memory" in output
        with pytest.raises(ValueError, match="sm failed: out of memory"):
            compare(replace(config, methods="sm"), tmp_path / "one", None)
    assert "<td>sm-seed1</td><td>out of memory</td>" in (folder / "report.html").read_text().replace("\n", "")
    assert compare(config, None, folder) == SUCCESS
    assert "failed" not in capfd.readouterr().out
