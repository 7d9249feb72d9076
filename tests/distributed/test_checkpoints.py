"""Checkpoints of one number of workers continued on another: by what is exported, and by runs of every method."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import surmin
from surmin.checkpoints.checkpoint import Checkpoint
from surmin.experiments.runs.metrics import Row
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.saved import SavedRun
from surmin.experiments.runs.team import Workers as Team
from surmin.methods.registry import METHODS, build_method
from surmin.models import mlp
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.partition import partition
from tests.device import here
from tests.distributed.runs import run_here
from tests.distributed.settings import TIMEOUT, Setting, make_pipeline, values
from tests.distributed.workers import Workers
from tests.experiments.runs.cases import contents, resume, start, tiny_run

ROUNDS = 3
"""By each number of workers."""


def setting_of(method: str, workers: int) -> Setting:
    return Setting(workers, workers, 2, method=method)


@contextmanager
def pipeline_of(setting: Setting, modules: Any = None) -> Iterator[WorkerPipeline]:
    modules = modules or setting.modules()
    if setting.workers == 1:
        yield InProcessPipeline(modules, setting.case.loss, microbatches=setting.microbatches)
        return
    pipeline = make_pipeline(setting, modules)
    yield pipeline
    pipeline.flush()


def batch(setting: Setting, number: int) -> tuple[Tensor, Tensor]:
    return setting.case.batch(12, seed=number)


def train(setting: Setting, folder: Path, rounds: int = ROUNDS) -> tuple[int, dict[str, Any]]:
    """Where training was taken up, and the parameters after some rounds more, of which there is a checkpoint then."""
    with pipeline_of(setting) as pipeline:
        method: Any = build_method(setting.method, pipeline)
        first = surmin.load_checkpoint(folder, method, missing_ok=True)
        for number in range(first, first + rounds):
            method.step(*batch(setting, number))
        surmin.save_checkpoint(folder, method, first + rounds)
        return first, values(pipeline)


@pytest.mark.parametrize("method", ["sm", "adam"])
def test_two_workers_then_one_then_three(workers: Workers, tmp_path: Path, method: str) -> None:
    two = workers.run(2, train, setting_of(method, 2), tmp_path / "shared")
    one = train(setting_of(method, 1), tmp_path / "shared")
    three = workers.run(3, train, setting_of(method, 3), tmp_path / "shared")
    assert [first for first, _ in [*two, one, *three]] == [0, 0, ROUNDS, *[2 * ROUNDS] * 3]
    found = {name: value for _, own in three for name, value in own.items()}
    _, expected = train(setting_of(method, 1), tmp_path / "whole", 3 * ROUNDS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-9)


def test_replicas_save_together(workers: Workers, tmp_path: Path) -> None:
    """They are given the same batches here, and then do what one of them would."""
    workers.run(4, train, setting_of("adam", 2), tmp_path / "shared")
    first, found = train(setting_of("adam", 1), tmp_path / "shared")
    _, expected = train(setting_of("adam", 1), tmp_path / "whole", 2 * ROUNDS)
    assert first == ROUNDS
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-9)


def train_on_shares(folder: Path) -> None:
    """Each of two replicas with samples of its own, of which the first one's state is saved."""
    setting = setting_of("dladmm", 2)
    for first in (0, ROUNDS):
        with pipeline_of(setting) as pipeline:
            method: Any = build_method("dladmm", pipeline)
            assert surmin.load_checkpoint(folder, method, missing_ok=True) == first
            for _ in range(ROUNDS):
                report = method.step(*batch(setting, dist.get_rank() // 2))
            assert report.accepted
            surmin.save_checkpoint(folder, method, first + ROUNDS)


def test_replicas_with_samples_of_their_own_save_together(workers: Workers, tmp_path: Path) -> None:
    workers.run(4, train_on_shares, tmp_path)
    assert len(contents(tmp_path)) == 4


@contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(ValueError, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)


def refuse(folder: Path) -> None:
    """What two workers are refused, both of them, with everything as it was."""
    setting = setting_of("sm", 2)
    with pipeline_of(setting) as pipeline:
        sm = surmin.SurrogateMinimizer(pipeline)
        with refused("no checkpoint in it"):
            surmin.load_checkpoint(folder, sm)
        surmin.save_checkpoint(folder, sm, 4)
        with refused("round must be a whole number from 0 up, got -1"):
            surmin.save_checkpoint(folder, sm, -1)
        with refused("round-000004 is of a later round than 3: load it first"):
            surmin.save_checkpoint(folder, sm, 3)
        with torch.no_grad():
            first = next(iter(pipeline.parameters.values()))
            kept = first.clone()
            if dist.get_rank() == 1:
                first[0] = torch.nan
        with refused("^worker 1: parameter .* is not finite"):
            surmin.save_checkpoint(folder, sm, 5)
        assert surmin.load_checkpoint(folder, sm) == 4
        assert torch.equal(first, kept)
        with refused("the state was saved with seed 0, this minimizer has 1"):
            surmin.load_checkpoint(folder, surmin.SurrogateMinimizer(pipeline, seed=1))
        other: Any = build_method("adam", pipeline)
        with refused("the checkpoint is of method SurrogateMinimizer, not FirstOrder"):
            surmin.load_checkpoint(folder, other)
        other.step(*batch(setting, 0))
        if dist.get_rank() == 1:
            next(iter(other.optimizer.state.values()))["exp_avg_sq"].fill_(torch.inf)
        with refused("^worker 1: memory.*exp_avg_sq of what the method remembers is not finite: a checkpoint of it"):
            surmin.save_checkpoint(folder, other, 5)
    modules = setting.modules()
    modules[0].requires_grad_(False)
    with pipeline_of(setting, modules) as pipeline, refused(r"^the checkpoint has 16 parameters, and \d+ train here: "):
        surmin.load_checkpoint(folder, surmin.SurrogateMinimizer(pipeline))
    with pipeline_of(setting, partition(mlp((5,), 3, 8, 7, "tanh").double().to(here()), 2)) as pipeline:
        before = values(pipeline)
        with refused("the checkpoint is of another network: parameter .* is float64 .* there"):
            surmin.load_checkpoint(folder, surmin.SurrogateMinimizer(pipeline))
        assert all((before[name] == value).all() for name, value in values(pipeline).items())


def test_what_does_not_fit_is_refused_on_all_workers(workers: Workers, tmp_path: Path) -> None:
    workers.run(2, refuse, tmp_path)
    assert len(contents(tmp_path)) == 2
    file = next(tmp_path.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    workers.run(2, refuse_damaged, tmp_path, file.name)


def refuse_other_rounds(folder: Path) -> None:
    """A worker whose folder was copied some rounds ago."""
    setting, rank = setting_of("sm", 2), dist.get_rank()
    with pipeline_of(setting) as pipeline:
        sm = surmin.SurrogateMinimizer(pipeline)
        for number in (1, 2):
            surmin.save_checkpoint(folder / f"{number}", sm, number)
        before = values(pipeline)
        with refused("worker 0 has a checkpoint of round 1; worker 1 has a checkpoint of round 2"):
            surmin.load_checkpoint(folder / f"{1 + rank}", sm)
        assert all((before[name] == value).all() for name, value in values(pipeline).items())


def test_workers_that_find_other_rounds_are_refused(workers: Workers, tmp_path: Path) -> None:
    workers.run(2, refuse_other_rounds, tmp_path)


def refuse_unreadable(folder: Path) -> tuple[str, bool]:
    """Worker 1 may not look into the folder."""
    setting = setting_of("adam", 2)
    with pipeline_of(setting) as pipeline:
        method: Any = build_method("adam", pipeline)
        denied = patch("surmin.checkpoints.saving.newest_round", side_effect=PermissionError("not for you"))
        with denied if dist.get_rank() == 1 else nullcontext():
            try:
                surmin.load_checkpoint(folder, method, missing_ok=True)
                said = ""
            except (OSError, ValueError) as error:
                said = str(error)
        return said, bool(method.step(*batch(setting, 0)).accepted)


def test_all_hear_that_one_cannot_look_for_checkpoints(workers: Workers, tmp_path: Path) -> None:
    found = workers.run(2, refuse_unreadable, tmp_path)
    assert found == [("worker 1: PermissionError: not for you", True), ("not for you", True)]


def refuse_damaged(folder: Path, name: str) -> None:
    with pipeline_of(setting_of("sm", 2)) as pipeline, refused(f"{name}: not a checkpoint that can be read"):
        surmin.load_checkpoint(folder, surmin.SurrogateMinimizer(pipeline))


def alone_in_a_group(folder: Path) -> None:
    """One worker of two trains a network by itself, and nobody else has to do with its checkpoints."""
    if dist.get_rank() == 0:
        train(setting_of("sm", 1), folder)
        first, _ = train(setting_of("sm", 1), folder)
        assert first == ROUNDS
    dist.barrier()


def load_into_a_live_pipeline(folder: Path) -> list[float]:
    """The first worker's stage is frozen, so that nothing changes there; the losses before and after."""
    modules = [nn.Linear(4, 5).requires_grad_(False), nn.Sequential(nn.Tanh(), nn.Linear(5, 3))]
    pipeline = surmin.Pipeline(modules[dist.get_rank()], surmin.CrossEntropy(), timeout=TIMEOUT)
    trained = surmin.SurrogateMinimizer(pipeline)
    batch = torch.ones(6, 4), torch.arange(6) % 3
    surmin.save_checkpoint(folder, trained, round=0)
    losses = [trained.step(*batch).new_loss for _ in range(2)]
    surmin.load_checkpoint(folder, trained)
    losses.append(trained.step(*batch).new_loss)
    pipeline.flush()
    return losses


def test_a_checkpoint_is_loaded_in_the_middle_of_training(workers: Workers, tmp_path: Path) -> None:
    for first, second, again in workers.run(2, load_into_a_live_pipeline, tmp_path):
        assert second < first == pytest.approx(again, rel=1e-6)


def test_one_process_saves_by_itself_whatever_group_it_is_in(workers: Workers, tmp_path: Path) -> None:
    workers.run(2, alone_in_a_group, tmp_path)
    assert len(contents(tmp_path)) == 1


def test_the_checkpoint_of_a_run_is_continued_by_the_library(tmp_path: Path) -> None:
    start(tiny_run(rounds=2), tmp_path / "run").train()
    whole = start(tiny_run(), tmp_path / "whole")
    whole.train()
    other = Run(tiny_run(), tmp_path / "other").problem
    sm = surmin.SurrogateMinimizer(other.pipeline)
    for _ in range(surmin.load_checkpoint(tmp_path / "run" / "checkpoint", sm), 4):
        sm.step(other.data.train_inputs, other.data.train_targets)
    for name, value in whole.problem.pipeline.parameters.items():
        assert torch.equal(value, other.pipeline.parameters[name])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_written_by_two_workers_and_continued_by_one_process(workers: Workers, tmp_path: Path, method: str) -> None:
    batch_size = 0 if method == "lbfgs" else 20  # on other batches every round it takes rounding for curvature
    rate = {"lr": 0.01} if method in ("ddg", "features-replay", "fdg") else {}
    config = tiny_run(method=method, batch_size=batch_size, stages=3, workers=2, rounds=6, **rate)
    jobs = [(replace(config, rounds=3), tmp_path / "part", None), (config, tmp_path / "whole", None)]
    held = workers.run(2, run_here, jobs)
    assert [sum(own) for own in zip(*held, strict=True)] == [3, 3], "a worker holds its own modules alone"
    continued = resume(tmp_path / "part", tmp_path / "alone", rounds=6, workers=1)
    continued.train()
    whole = SavedRun.read(tmp_path / "whole")
    assert [row.loss for row in continued.rows] == pytest.approx([row.loss for row in whole.rows], rel=0, abs=1e-9)
    expected = Checkpoint.load(tmp_path / "whole" / "checkpoint").parameters
    for name, value in continued.problem.pipeline.parameters.items():
        torch.testing.assert_close(value.detach().cpu(), expected[name], rtol=0, atol=1e-9)


def continue_what_each_has_read(saved: list[SavedRun], folder: Path) -> None:
    own = saved[dist.get_rank()]
    team = Team(dist.get_rank(), dist.get_world_size(), dist.get_rank(), TIMEOUT)
    run = Run(replace(saved[0].config, workers=2), folder, team)
    with refused("^worker 0: .*: the run went on meanwhile: wait for its end, then resume again$"):
        run.resume(own)


def test_a_run_that_went_on_before_one_worker_read_it_is_refused_on_all(workers: Workers, tmp_path: Path) -> None:
    start(tiny_run(method="adam", rounds=1), tmp_path / "run").train()
    early = SavedRun.read(tmp_path / "run")
    resume(tmp_path / "run", rounds=2).train()
    workers.run(2, continue_what_each_has_read, [early, SavedRun.read(tmp_path / "run")], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def continue_with_other_stages(source: Path, folder: Path) -> None:
    team = Team(dist.get_rank(), dist.get_world_size(), dist.get_rank(), TIMEOUT)
    saved = SavedRun.read(source)
    run = Run(replace(saved.config, workers=2, stages=2), folder, team)
    with refused("other stages"):
        run.resume(saved)


@pytest.mark.parametrize("method", ["dgl", "interlocking"])
def test_auxiliary_networks_of_other_stages_are_refused_on_all_workers(
    workers: Workers, tmp_path: Path, method: str
) -> None:
    """Also by a worker whose own stages are among those of before."""
    start(tiny_run(method=method, stages=3, rounds=2), tmp_path / "part").train()
    workers.run(2, continue_with_other_stages, tmp_path / "part", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def overflow_on_the_last(folder: Path) -> str:
    """What a worker writes to standard error when the last one's memory overflows in the second round."""
    team = Team(dist.get_rank(), dist.get_world_size(), dist.get_rank(), TIMEOUT)
    run = Run(tiny_run(method="adam", checkpoint_seconds=0.0), folder, team)
    method: Any = run._method

    def overflow(row: Row) -> None:
        if row.round == 2 and team.rank == 1:
            next(iter(method.optimizer.state.values()))["exp_avg_sq"].fill_(torch.inf)

    said = io.StringIO()
    with redirect_stderr(said):
        run.start()
        run.train(overflow)
    method.pipeline.flush()
    return said.getvalue()


def test_worker_0_says_of_any_worker_that_it_cannot_be_saved(workers: Workers, tmp_path: Path) -> None:
    first, second = workers.run(2, overflow_on_the_last, tmp_path / "run")
    assert re.fullmatch(r"surmin: no checkpoints from round 2 on: worker 1: .*exp_avg_sq.* is not finite\n", first)
    assert second == ""
    assert Checkpoint.load(tmp_path / "run" / "checkpoint").round == 1
