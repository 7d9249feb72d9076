"""Who does a command's work: workers started here, this process as one of several, or this process alone."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from surmin.experiments.config import ExperimentConfig, RunConfig
from surmin.experiments.folder import check_unclaimed
from surmin.experiments.saved import read_config
from surmin.experiments.team import Team, team_of
from surmin.launch.supervisor import supervise
from surmin.launch.worker import this_worker

Config = TypeVar("Config", bound=ExperimentConfig)


def launch(config: ExperimentConfig, path: Path, resume: Path | None = None) -> int | None:
    """Check what can be checked beforehand, and run the same command on workers of this machine if it asks for them.

    Args:
        config: the options given.
        path: the folder to write; it must be new or empty, or the one that is resumed.
        resume: the folder of a run to continue.

    Returns:
        The workers' exit code; None when this process is to do the work, alone or as a worker.

    Raises:
        ValueError: for options that are not possible, or a folder that is in use.
    """
    worker = this_worker()
    if worker is None:
        config.check()
    if path != resume and (worker is None or worker.rank == 0):
        check_unclaimed(path)
    if worker is not None or config.workers == 1:
        return None
    words = [*config.to_words(), "--out", str(path), *(["--resume", str(resume)] if resume else [])]
    command = [sys.executable, "-m", "surmin", config.command, *words]
    resumable = path if isinstance(config, RunConfig) else None
    gc.freeze()  # or torch's modules are collected at the end, for seconds in which a failed run has not ended
    return supervise(config.workers, command, timeout=config.timeout, folder=resumable)


@contextmanager
def joined_team(config: Config, path: Path, resume: Path | None = None) -> Iterator[tuple[Config, Path, Team]]:
    """The team that does the work, for as long as it does, with the options and the folder that all of it go by.

    Raises:
        ValueError: when another number of workers was asked for than torchrun has started, or options do not fit it.
    """
    with team_of(this_worker(), config.waiting, config.device) as team:
        yield for_team(config, team, resume), Path(team.gather(str(path))[0]), team


def for_team(config: Config, team: Team, resume: Path | None = None) -> Config:
    """The options with the number of workers there are; under torchrun it need not be given."""
    default = type(config)() if resume is None else read_config(resume, type(config))
    if config.workers not in (default.workers, team.count):
        raise ValueError(
            f"--workers {config.workers}, but {team.count} were started: leave --workers out under torchrun"
        )
    taken_over = replace(config, workers=team.count)
    taken_over.check()
    return taken_over
