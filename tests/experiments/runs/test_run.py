import json
import math
import os
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surmin.checkpoints.checkpoint import Checkpoint
from surmin.data import Dataset
from surmin.errors import NonFiniteError
from surmin.experiments.runs import run as run_module
from surmin.experiments.runs.folder import check_unclaimed, written_by_one
from surmin.experiments.runs.metrics import Row
from surmin.experiments.runs.problem import method_options
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.saved import SavedRun
from surmin.methods.registry import METHODS
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from tests.experiments.runs.cases import contents, resume, rows_of, start, tiny_run, untimed

FILE = "round-000004/shard-00001-model-00001-of-00001.safetensors"
FIRST_WAVE_KEPT = {"sm", "gd-armijo", "lbfgs", "sso", "cgblock", "cgblock-ggn", "kfac", "newton"}
"""Methods whose accepted forward wave serves the next round: after resuming it is done once more."""
DAMPED = {"sm", "sm-paper", "cgblock-ggn", "kfac"}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_recorded(tmp_path: Path, name: str) -> None:
    seen: list[int] = []
    run = start(tiny_run(method=name), tmp_path / "run")
    assert run.train(lambda row: seen.append(row.round)) == "finished"
    assert seen == [1, 2, 3, 4]
    rows = rows_of(tmp_path / "run")
    assert rows == untimed(run.rows)
    assert [row.round for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0].forward_waves == 0 and rows[0].messages == 0 and rows[0].accepted is None
    assert rows[4].forward_waves >= 4 and rows[4].messages > 0 and rows[4].bytes > 0
    assert rows[4].gradient_equivalents >= 3  # of methods with delays, whose lower stages wait at first
    last, first = rows[-1].loss, rows[0].loss
    assert last is not None and first is not None and last < first
    assert (rows[4].damping is None) == (name not in DAMPED)
    assert sorted(contents(tmp_path / "run")) == [f"checkpoint/{FILE}", "config.json", "metrics.jsonl"]


@pytest.mark.parametrize("name", ["sm", "kfac", "cgblock-ggn"])
def test_too_many_classes_for_an_exact_factor_get_random_columns(tmp_path: Path, name: str) -> None:
    labels = np.array([0, 1100] * 10)
    inputs = np.random.default_rng(0).normal(size=(20, 5))
    np.savez(tmp_path / "wide.npz", x_train=inputs, y_train=labels, x_test=inputs, y_test=labels)
    run = start(tiny_run(method=name, data=str(tmp_path / "wide.npz"), train_samples=None, rounds=2), tmp_path / "run")
    assert run.train() == "finished"
    last, first = run.rows[-1].loss, run.rows[0].loss
    assert last is not None and first is not None and last < first


@pytest.mark.parametrize(("classes", "tokens", "rank"), [(64, False, None), (65, False, 32), (5, True, 2)])
def test_the_rank_unless_told_otherwise(classes: int, tokens: bool, rank: int | None) -> None:
    inputs = torch.zeros(2, 3, dtype=torch.int64 if tokens else torch.float32)
    data = Dataset(inputs, torch.zeros(2), inputs, torch.zeros(2), classes)
    for method in ("sm", "kfac", "cgblock-ggn"):
        assert method_options(method, data, {}).get("rank") == rank
        assert method_options(method, data, {"rank": 3}) == {"rank": 3}
        assert "rank" not in method_options(method, data, {"rank": "exact"})
    assert method_options("adam", data, {"lr": 0.1}) == {"lr": 0.1}
    for without_columns in ({"curvature": "scalar"}, {"preset": "paper"}):
        assert method_options("sm", data, without_columns) == without_columns


def test_the_configuration_is_recorded(tmp_path: Path) -> None:
    start(tiny_run(method="adam", lr=0.01, stages=None), tmp_path / "run")
    document = json.loads((tmp_path / "run" / "config.json").read_text())
    assert document["options"]["method"] == "adam"
    assert document["options"]["lr"] == 0.01
    assert document["options"]["stages"] == 3
    assert document["command"] == "train"
    assert document["environment"]["torch"] == torch.__version__


def test_full_batch_loss_is_that_of_the_step(tmp_path: Path) -> None:
    run = start(tiny_run(method="sm"), tmp_path / "run")
    inputs, targets = run.problem.data.train_inputs, run.problem.data.train_targets
    run.train()
    wave = run.problem.pipeline.forward(inputs, targets)
    assert run.rows[-1].loss == pytest.approx(float(wave.loss), rel=1e-12)
    predicted = torch.nn.Sequential(*run.problem.modules)(run.problem.data.test_inputs).argmax(-1)
    right = int((predicted == run.problem.data.test_targets).sum())
    assert run.rows[-1].test_accuracy == right / len(predicted)


def test_the_same_seed_is_the_same_run_whatever_the_stages(tmp_path: Path) -> None:
    losses = []
    for number, stages in enumerate((1, 3)):
        run = start(tiny_run(method="sm", stages=stages, batch_size=30), tmp_path / str(number))
        run.train()
        losses.append([row.loss for row in run.rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    other = start(tiny_run(method="sm", seed=1), tmp_path / "other")
    assert other.rows[0].loss != losses[0][0]


def test_the_target_is_reached_at_the_first_row_below_it(tmp_path: Path) -> None:
    run = start(tiny_run(rounds=50, target_loss=0.5), tmp_path / "run")
    assert run.train() == "reached"
    losses = [row.loss or 0.0 for row in run.rows]
    assert losses[-1] <= 0.5 and all(loss > 0.5 for loss in losses[:-1])


@pytest.mark.parametrize("batch_size", [0, 30])
def test_evaluating_less_often_leaves_rows_out_and_changes_none(tmp_path: Path, batch_size: int) -> None:
    every = start(tiny_run(rounds=5, batch_size=batch_size), tmp_path / "every")
    every.train()
    run = start(tiny_run(rounds=5, batch_size=batch_size, evaluate_every=2), tmp_path / "run")
    run.train()
    assert rows_of(tmp_path / "run") == untimed(run.rows) == untimed([every.rows[number] for number in (0, 2, 4, 5)])


def test_a_run_evaluated_less_often_stops_and_resumes_at_its_evaluations(tmp_path: Path) -> None:
    whole = start(tiny_run(rounds=9, evaluate_every=4), tmp_path / "whole")
    whole.train()
    assert [row.round for row in whole.rows] == [0, 4, 8, 9]
    start(tiny_run(rounds=6, evaluate_every=4), tmp_path / "run").train()
    resumed = resume(tmp_path / "run", rounds=9)
    resumed.train()
    assert [row.round for row in resumed.rows] == [0, 4, 6, 8, 9]
    assert resumed.rows[-1].loss == whole.rows[-1].loss
    loss = whole.rows[1].loss
    reached = start(tiny_run(rounds=9, evaluate_every=4, target_loss=loss), tmp_path / "reached")
    assert reached.train() == "reached" and reached.rows[-1].round == 4


def test_an_interrupt_does_not_wait_for_the_next_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tiny_run(rounds=50, evaluate_every=20), tmp_path / "run")
    step, interrupted_in = run._step, 2

    def interrupted_step(last: Row) -> Row:
        if last.round == interrupted_in:
            signal.raise_signal(signal.SIGINT)
        return step(last)

    monkeypatch.setattr(run, "_step", interrupted_step)
    assert run.train() == "interrupted"
    assert [row.round for row in run.rows] == [0, 3]
    resumed = resume(tmp_path / "run", rounds=25)
    resumed.train()
    whole = start(tiny_run(rounds=25, evaluate_every=20), tmp_path / "whole")
    whole.train()
    assert [row.round for row in resumed.rows] == [0, 3, 20, 25]
    assert resumed.rows[-1].loss == whole.rows[-1].loss


def test_divergence_is_noticed_at_the_next_evaluation(tmp_path: Path) -> None:
    run = start(tiny_run(method="gd", lr=1e200, rounds=50, evaluate_every=20), tmp_path / "run")
    assert run.train() == "diverged"
    assert [row.loss for row in run.rows[1:]] == [None] and run.rows[-1].round == 20


def test_no_rounds_is_the_starting_point_alone(tmp_path: Path) -> None:
    run = start(tiny_run(rounds=0), tmp_path / "run")
    assert run.train() == "finished"
    assert len(rows_of(tmp_path / "run")) == 1


@pytest.mark.parametrize("options", [{}, {"batch_size": 20, "rounds": 6}], ids=["full batch", "batches"])
@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    rounds = options.get("rounds", 4)
    whole = start(tiny_run(method=name, **options), tmp_path / "whole")
    whole.train()
    start(tiny_run(method=name, **{**options, "rounds": rounds - 2}), tmp_path / "part").train()
    continued = resume(tmp_path / "part", rounds=rounds)
    assert continued.train() == "finished"
    for key, value in whole.problem.pipeline.parameters.items():
        assert torch.equal(value, continued.problem.pipeline.parameters[key])
    exact = name not in FIRST_WAVE_KEPT or "batch_size" in options
    for expected, row in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "part"), strict=True):
        assert (row.round, row.loss, row.test_accuracy) == (expected.round, expected.loss, expected.test_accuracy)
        assert row == expected or not exact


def test_resuming_on_other_stages(tmp_path: Path) -> None:
    whole = start(tiny_run(method="sm", stages=3), tmp_path / "whole")
    whole.train()
    start(tiny_run(method="sm", stages=3, rounds=2), tmp_path / "part").train()
    continued = resume(tmp_path / "part", rounds=4, stages=1)
    continued.train()
    assert continued.rows[-1].loss == pytest.approx(whole.rows[-1].loss, rel=1e-9)


def test_resuming_into_another_folder_leaves_the_first_alone(tmp_path: Path) -> None:
    start(tiny_run(method="adam", rounds=2), tmp_path / "part").train()
    before = contents(tmp_path / "part")
    continued = resume(tmp_path / "part", tmp_path / "whole", rounds=4)
    continued.train()
    assert contents(tmp_path / "part") == before
    assert [row.round for row in rows_of(tmp_path / "whole")] == [0, 1, 2, 3, 4]
    assert rows_of(tmp_path / "whole")[:3] == rows_of(tmp_path / "part")


def test_rows_after_the_checkpoint_are_computed_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start(tiny_run(method="adam"), folder).train()
    rows = rows_of(folder)
    early = start(tiny_run(method="adam", rounds=2), tmp_path / "early")
    early.train()
    shutil.rmtree(folder / "checkpoint")
    (tmp_path / "early" / "checkpoint").rename(folder / "checkpoint")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 5, "lo')
    resume(folder).train()
    assert rows_of(folder) == rows


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    start(tiny_run(), tmp_path / "run").train()
    before = contents(tmp_path / "run")
    assert resume(tmp_path / "run").train() == "finished"
    after = contents(tmp_path / "run")
    assert after["metrics.jsonl"] == before["metrics.jsonl"]


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, [0, 1, 2, 3]), (1000.0, [0, 0, 0, 0])])
def test_checkpoints_are_written_on_the_way(tmp_path: Path, seconds: float, expected: list[int]) -> None:
    run = start(tiny_run(method="adam", checkpoint_seconds=seconds), tmp_path / "run")
    rounds = []
    run.train(lambda row: rounds.append(Checkpoint.load(tmp_path / "run" / "checkpoint").round))
    assert rounds == expected


def test_what_could_not_be_continued_is_not_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Adam's memory overflows where gradients are large, and the loss may still be finite."""
    run = start(tiny_run(method="adam", checkpoint_seconds=0.0), tmp_path / "run")
    method: Any = run._method

    def overflow(row: Row) -> None:
        if row.round == 2:
            next(iter(method.optimizer.state.values()))["exp_avg_sq"].fill_(math.inf)

    assert run.train(overflow) == "finished"
    (told,) = capsys.readouterr().err.splitlines()
    assert re.match(r"surmin: no checkpoints from round 2 on: .*exp_avg_sq.* is not finite", told)
    assert Checkpoint.load(tmp_path / "run" / "checkpoint").round == 1
    assert resume(tmp_path / "run").train() == "finished"


@pytest.mark.parametrize("target", ["run", "copy"])
def test_a_run_that_went_on_since_it_was_read_is_not_continued(tmp_path: Path, target: str) -> None:
    """Its rows would be those of one round, and its parameters those of another."""
    start(tiny_run(method="adam", rounds=2), tmp_path / "run").train()
    saved = SavedRun.read(tmp_path / "run")
    resume(tmp_path / "run", rounds=4).train()
    before = contents(tmp_path)
    for known in (saved, replace(saved, rows=[])):
        with pytest.raises(ValueError, match="run: the run went on meanwhile: wait for its end, then resume again"):
            Run(saved.config, tmp_path / target).resume(known)
    assert contents(tmp_path) == before and not (tmp_path / "copy").exists()


@pytest.mark.parametrize("lost", [("checkpoint",), ("checkpoint", "metrics.jsonl")])
def test_a_run_cut_off_before_its_first_checkpoint_begins_anew(tmp_path: Path, lost: tuple[str, ...]) -> None:
    start(tiny_run(method="adam"), tmp_path / "whole").train()
    start(tiny_run(method="adam"), tmp_path / "run")
    for name in lost:
        (tmp_path / "run" / name).rename(tmp_path / name)
    with pytest.raises(ValueError, match=f"is continued with --resume {tmp_path / 'run'}"):
        start(tiny_run(method="adam"), tmp_path / "run")
    resume(tmp_path / "run").train()
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


def test_a_run_cut_off_before_its_options_were_written_is_not_to_be_resumed(tmp_path: Path) -> None:
    (tmp_path / ".config.json.7.tmp").write_text("{")
    with pytest.raises(ValueError, match=r"is not empty: name another folder with --out$"):
        start(tiny_run(), tmp_path)


def test_divergence_is_recorded(tmp_path: Path) -> None:
    run = start(tiny_run(method="gd", lr=1e200, rounds=20), tmp_path / "run")
    assert run.train() == "diverged"
    rows = rows_of(tmp_path / "run")
    assert rows[-1].loss is None and rows[-2].loss is not None
    with pytest.raises(ValueError, match=rf"the run diverged in round {rows[-1].round}, there is nothing to continue"):
        resume(tmp_path / "run")


class Failing:
    """A method that works once."""

    def __init__(self, pipeline: WorkerPipeline) -> None:
        self.pipeline = pipeline
        self.rounds = 0

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> StepReport:
        self.rounds += 1
        if self.rounds > 1:
            raise NonFiniteError("the loss is inf")
        return StepReport(1.0, 1.0, 1.0, 1.0, 1.0, True, 0, 1.0, 1.0, 1, 1, 1)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def test_a_step_that_cannot_be_computed_is_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "build_method", lambda _name, pipeline, **_: Failing(pipeline))
    for every, rounds in ((1, [0, 1, 2]), (4, [0, 2])):
        run = start(tiny_run(evaluate_every=every), tmp_path / f"{every}")
        assert run.train() == "diverged"
        assert [row.round for row in run.rows] == [row.round for row in rows_of(tmp_path / f"{every}")] == rounds
        assert run.rows[-1].loss is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"microbatches": 7}, "60 samples cannot be cut into 7 equal microbatches"),
        ({"batch_size": 20, "microbatches": 3}, "20 samples cannot be cut into 3 equal microbatches"),
        ({"batch_size": 61}, "batch_size 61 is more than the 60 training samples"),
        ({"stages": 9}, "cannot cut a model with 3 trainable layers into 9 stages"),
        ({"train_samples": 10**6}, "cannot take 1000000 training samples"),
        ({"data": "nowhere"}, "no data 'nowhere'"),
        ({"activation": "swish"}, "unknown activation 'swish'"),
        ({"model": "gpt"}, "gpt needs rows of token ids"),
        ({"curvature": "scalar", "rank": 0}, "rank must be at least 1"),
    ],
)
def test_what_cannot_be_built_writes_nothing(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start(tiny_run(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CUDA device is available"):
        Run(tiny_run(device="cuda"), tmp_path)


def test_a_folder_in_use_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ValueError, match="is not empty: name another folder with --out"):
        start(tiny_run(), tmp_path)
    with pytest.raises(ValueError, match="is a file, not a folder"):
        start(tiny_run(), tmp_path / "mine")
    assert contents(tmp_path) == {"mine": b"precious"}
    start(tiny_run(rounds=1), tmp_path / "part").train()
    with pytest.raises(ValueError, match="is not empty"):
        resume(tmp_path / "part", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=f"nothing may be written in {tmp_path}"):
        start(tiny_run(), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gd"}, "--method cannot change on resuming: the run has adam, not gd"),
        ({"layers": 2}, "--layers cannot change on resuming: the run has 3, not 2"),
        ({"seed": 3}, "--seed cannot change"),
        ({"lr": 0.5}, "--lr cannot change on resuming: the run has None, not 0.5"),
    ],
)
def test_resuming_as_another_run(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    start(tiny_run(method="adam", rounds=1), tmp_path / "run").train()
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        resume(tmp_path / "run", **changes)
    assert contents(tmp_path / "run") == before


def test_damaged_folders(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start(tiny_run(method="adam"), folder).train()
    other = start(tiny_run(method="adam", width=9), tmp_path / "other")
    other.train()
    good = contents(folder)
    checkpoint, metrics, config = (
        folder / "checkpoint" / FILE,
        folder / "metrics.jsonl",
        folder / "config.json",
    )

    def refused(message: str) -> None:
        damaged = contents(folder)
        with pytest.raises(ValueError, match=message) as caught:
            resume(folder)
        assert "\n" not in str(caught.value)
        assert contents(folder) == damaged
        for name, content in good.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)

    checkpoint.write_bytes((other.folder.checkpoint / FILE).read_bytes())
    refused("checkpoint is of another network: parameter 1.bias is float64 \\[9\\] there and float64 \\[8\\] here")
    checkpoint.write_bytes(b"\x80\x04nonsense")
    refused(f"{FILE}: not a checkpoint that can be read")
    checkpoint.unlink()
    refused("round-000004: not a checkpoint that can be read: the part of worker 0 is missing")
    checkpoint.parent.rename(folder / "elsewhere")
    refused("checkpoint: no checkpoint in it")
    metrics.write_text("")
    refused("metrics.jsonl has no row of round 4")
    metrics.unlink()
    refused("metrics.jsonl: cannot be read")
    config.write_text("{}")
    refused("config.json: cannot be read: no command and options in it")
    config.write_text(config.read_text().replace('"layers"', '"laers"') if config.exists() else "")
    refused("config.json: cannot be read")


def test_rows_are_what_the_report_says(tmp_path: Path) -> None:
    run = start(tiny_run(method="sm", rounds=1), tmp_path / "run")
    run.train()
    row = asdict(run.rows[1])
    assert row["accepted"] is True and row["damping"] > 0 and row["reduction_ratio"] > 0 and row["seconds"] > 0


def test_of_two_runs_started_into_one_new_folder_the_second_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    before: dict[str, bytes] = {}

    def overtaken(path: Path) -> None:
        check_unclaimed(path)
        if not before:
            before["config.json"] = b""  # the one that overtakes is not overtaken
            start(tiny_run(seed=1), folder)
            before.update(contents(folder))

    monkeypatch.setattr("surmin.experiments.runs.folder.check_unclaimed", overtaken)
    with pytest.raises(ValueError, match="is not empty: name another folder with --out"):
        start(tiny_run(seed=2), folder)
    assert contents(folder) == before and json.loads(before["config.json"])["options"]["seed"] == 1


def test_a_run_does_not_start_where_another_is_about_to_write(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with written_by_one(tmp_path / "run"), pytest.raises(ValueError, match="is being written by another run"):
        start(tiny_run(), tmp_path / "run")
    assert not any((tmp_path / "run").iterdir())


def test_a_folder_that_another_run_writes_is_left_alone(tmp_path: Path) -> None:
    start(tiny_run(), tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with written_by_one(tmp_path / "run"), pytest.raises(ValueError, match="is being written by another run"):
        resume(tmp_path / "run", rounds=9)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
