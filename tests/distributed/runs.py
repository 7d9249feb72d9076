"""Runs on the workers that tests share."""

from pathlib import Path

import torch.distributed as dist

from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.saved import SavedRun
from surmin.experiments.runs.team import Workers as Team
from tests.distributed.settings import TIMEOUT


def run_here(jobs: list[tuple[RunConfig, Path, Path | None]]) -> list[int]:
    """Runs on these workers, begun or continued; how many modules this one holds in each."""
    held = []
    for config, folder, source in jobs:
        run = Run(config, folder, Team(dist.get_rank(), dist.get_world_size(), dist.get_rank(), TIMEOUT))
        if source is None:
            run.start()
        else:
            run.resume(SavedRun.read(source))
        run.train()
        run.problem.pipeline.flush()  # type: ignore[attr-defined]
        held.append(len(run.problem.modules))
    return held
