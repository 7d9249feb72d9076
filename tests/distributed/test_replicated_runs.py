"""Runs on replicas: the rows, the messages and the checkpoints, against one process and against the library."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from surmin import CrossEntropy, Pipeline, SurrogateMinimizer, partition
from surmin.data import load_dataset
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.team import Workers as Team
from surmin.models import mlp
from tests.device import here
from tests.distributed.runs import run_here
from tests.distributed.settings import TIMEOUT
from tests.distributed.workers import Workers
from tests.experiments.runs.cases import contents, resume, rows_of, start, tiny_run

WHOLE: dict[str, Any] = {"curvature_fraction": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "sm": {"method": "sm", **WHOLE},
    "adam in batches": {"method": "adam", "batch_size": 20},
}
"""What replicas do as one process does; other curvature is drawn by every replica from its own share."""


def replicated(config: RunConfig) -> RunConfig:
    return replace(config, workers=4, replicas=2)


def test_replicas_write_what_one_process_writes_and_continue_each_other(workers: Workers, tmp_path: Path) -> None:
    configs = {name: tiny_run(**options) for name, options in CASES.items()}
    for name, config in configs.items():
        start(config, tmp_path / name / "whole").train()
        start(replace(config, rounds=2), tmp_path / name / "half").train()
    jobs: list[tuple[RunConfig, Path, Path | None]] = []
    for name, config in configs.items():
        folder = tmp_path / name
        jobs.append((replicated(replace(config, rounds=2)), folder / "replicated", None))
        jobs.append((replicated(config), folder / "half, then replicated", folder / "half"))
    workers.run(4, run_here, jobs)
    for name in configs:
        folder = tmp_path / name
        assert len(contents(folder / "replicated" / "checkpoint")) == 2, "the first replica's workers write"
        resume(folder / "replicated", folder / "replicated, then alone", rounds=4, workers=1, replicas=1).train()
        expected = rows_of(folder / "whole")
        for other in ("replicated, then alone", "half, then replicated"):
            for row, own in zip(rows_of(folder / other), expected, strict=True):
                figures, own_figures = [[each.loss, each.test_accuracy, each.damping or 0.0] for each in (row, own)]
                assert figures == pytest.approx(own_figures, rel=1e-9)
        options = json.loads((folder / "replicated" / "config.json").read_text())["options"]
        assert (options["workers"], options["replicas"]) == (4, 2)


def test_the_figures_are_those_of_the_library(workers: Workers, tmp_path: Path) -> None:
    """With curvature that every replica draws from its own share."""
    workers.run(4, run_here, [(replicated(tiny_run()), tmp_path / "run", None)])
    found = workers.run(4, by_the_library, 4)
    rows = rows_of(tmp_path / "run")
    for index, row in enumerate(rows[1:]):
        losses, messages, sent = zip(*(worker[index] for worker in found), strict=True)
        assert row.loss == pytest.approx(losses[0], rel=1e-12)
        assert (row.messages - rows[index].messages, row.bytes - rows[index].bytes) == (sum(messages), sum(sent))


def by_the_library(rounds: int) -> list[tuple[float, int, int]]:
    """The loss after every round, and what this worker sent in it."""
    data = load_dataset("digits", train_samples=60, dtype=torch.float64)
    torch.manual_seed(0)
    stages = partition(mlp(data.input_shape, data.classes, 3, 8).to(torch.float64), 2)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "pp"))
    pipeline = Pipeline(stages[dist.get_rank() % 2], CrossEntropy(), timeout=TIMEOUT, mesh=mesh)
    minimizer = SurrogateMinimizer(pipeline)
    batch = [tensor.to(here()).chunk(2)[dist.get_rank() // 2] for tensor in (data.train_inputs, data.train_targets)]
    reports = [minimizer.step(*batch) for _ in range(rounds)]
    pipeline.flush()
    return [(report.new_loss, report.messages, report.bytes_sent) for report in reports]


def test_shares_that_would_not_be_equal_are_refused_before_anything_is_written(
    workers: Workers, tmp_path: Path
) -> None:
    workers.run(4, refused, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def refused(folder: Path) -> None:
    team = Team(dist.get_rank(), dist.get_world_size(), dist.get_rank(), TIMEOUT)
    with pytest.raises(ValueError, match="59 samples cannot be shared equally by 2 replicas"):
        Run(replicated(tiny_run(train_samples=59)), folder, team)
    with pytest.raises(ValueError, match="30 samples cannot be cut into 4 equal microbatches"):
        Run(replicated(tiny_run(microbatches=4)), folder, team)


@pytest.mark.slow
def test_the_command_line(tmp_path: Path) -> None:
    """Two replicas of a pipe of one worker each."""
    problem = ["--train-samples", "60", "--layers", "3", "--width", "8", "--dtype", "float64", "--rounds", "3"]
    words = [*problem, "--curvature-fraction", "1", "--workers", "2", "--replicas", "2", "--out", "run"]
    ran = subprocess.run(
        [sys.executable, "-m", "surmin", "train", *words],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    alone = start(tiny_run(rounds=3, stages=None, **WHOLE), tmp_path / "alone")
    alone.train()
    assert [row.loss for row in rows_of(tmp_path / "run")] == pytest.approx([row.loss for row in alone.rows], rel=1e-9)
