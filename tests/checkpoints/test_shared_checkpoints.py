"""Checkpoints that several processes write together."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from surmin.checkpoints.checkpoint import Checkpoint
from surmin.checkpoints.tensor_tree import merge
from tests.checkpoints.checkpoint_workers import WORKERS, redistribute, run_workers, save_while_one_fails
from tests.experiments.runs.cases import contents, resume, rows_of, start, tiny_run
from tests.experiments.runs.states import equal

CASES: dict[str, dict[str, Any]] = {
    "adam": {"method": "adam"},
    "dladmm": {"method": "dladmm"},
    "sm": {"method": "sm", "preset": "trips", "order": "parallel", "batch_size": 20},
}


def count_tensors(value: Any) -> int:
    """Those of parameters: the digest of dladmm's batch is no parameter's, and comes with every part."""
    if isinstance(value, dict):
        return sum(count_tensors(own) for key, own in value.items() if key != "digest")
    return int(isinstance(value, torch.Tensor))


@pytest.mark.slow
def test_written_by_three_workers_and_read_by_one_or_two(tmp_path: Path) -> None:
    for name, options in CASES.items():
        start(tiny_run(**options), tmp_path / name / "whole").train()
        start(tiny_run(**{**options, "rounds": 2}), tmp_path / name / "part").train()
    folders = {tmp_path / name / "part" / "checkpoint": tmp_path / name / "shared" for name in CASES}
    run_workers(redistribute, tmp_path / "rendezvous", folders)
    for source, target in folders.items():
        whole, shared = Checkpoint.load(source), Checkpoint.load(target)
        assert len(contents(target)) == WORKERS
        assert shared.round == 2 and shared.method == whole.method
        assert equal(shared.parameters, whole.parameters) and equal(shared.state, whole.state)
        halves = [Checkpoint.load(target, sorted(whole.parameters)[half::2]) for half in range(2)]
        assert equal({**halves[0].parameters, **halves[1].parameters}, whole.parameters)
        assert not halves[0].parameters.keys() & halves[1].parameters.keys()
        assert sum(count_tensors(half.state) for half in halves) == count_tensors(whole.state) > 0
        shutil.rmtree(source)
        target.rename(source)
    for name in CASES:
        resume(tmp_path / name / "part", rounds=4).train()
        assert rows_of(tmp_path / name / "part") == rows_of(tmp_path / name / "whole")


def test_when_one_worker_fails_all_are_told_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    run_workers(save_while_one_fails, tmp_path / "rendezvous", folder)
    whole = Checkpoint.load(folder)
    assert equal(whole.parameters, {f"{rank}.weight": torch.full((2,), 2.0) for rank in range(WORKERS)})
    *_, last = sorted(path for path in folder.rglob("*") if path.is_file())
    last.unlink()
    with pytest.raises(ValueError, match="round-000002: not a checkpoint that can be read: the part of worker 2 is"):
        Checkpoint.load(folder, ["0.weight"])


@pytest.mark.parametrize(
    ("first", "second"),
    [({"a": 1}, {"a": 2}), ({"a": 1}, {"a": 1.0}), ({"a": [1]}, {"a": [1, 2]}), ({"a": 1}, {"a": {}})],
)
def test_parts_that_do_not_fit_together(first: Any, second: Any) -> None:
    with pytest.raises(ValueError, match="the workers do not agree on a: "):
        merge(first, second)
