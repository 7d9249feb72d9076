"""The team that does a command's work: this process as one of several, or alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from surmin.experiments.configs.run import ExperimentConfig
from surmin.experiments.configs.saved import read_config
from surmin.experiments.runs.team import Team, team_of
from surmin.launch.worker import this_worker

Config = TypeVar("Config", bound=ExperimentConfig)


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
