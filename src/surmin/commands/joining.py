"""The team that does a command's work: this process as one of several, or alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from surmin.experiments.configs.run import ExperimentConfig
from surmin.experiments.configs.saved import read_config
from surmin.experiments.runs.team import Team, team_of
from surmin.launch.worker import this_worker
from surmin.methods.registry import flag

OWN_OPTIONS = ("device", "threads", "data_dir")
"""Options that may differ between workers."""

Config = TypeVar("Config", bound=ExperimentConfig)


@contextmanager
def joined_team(config: Config, path: Path, resume: Path | None = None) -> Iterator[tuple[Config, Path, Team]]:
    """The team that does the work, for as long as it does, with the options and the folder that all members use.

    Raises:
        ValueError: if another number of workers was requested than torchrun has started, or options do not fit it.
    """
    with team_of(this_worker(), config.waiting, config.device) as team:
        config = for_team(config, team, resume)
        check_agreement(config, team)
        yield config, Path(team.gather(str(path))[0]), team


def check_agreement(config: ExperimentConfig, team: Team) -> None:
    """Raise ValueError, on all members, if they were started with different options."""
    own = {name: value for name, value in asdict(config).items() if name not in OWN_OPTIONS}
    told = [json.loads(text) for text in team.gather(json.dumps(own))]
    for rank, other in enumerate(told):
        for name in told[0]:
            if json.dumps(other[name]) != json.dumps(told[0][name]):  # as text, so that NaN is equal to itself
                raise ValueError(
                    f"worker {rank} was started with {flag(name)} {other[name]}, worker 0 with {told[0][name]}: "
                    "start all with the same options"
                )


def for_team(config: Config, team: Team, resume: Path | None = None) -> Config:
    """The options with the actual number of workers; under torchrun it need not be given."""
    default = type(config)() if resume is None else read_config(resume, type(config))
    if config.workers not in (default.workers, team.count):
        raise ValueError(
            f"--workers {config.workers}, but {team.count} were started: leave --workers out under torchrun"
        )
    taken_over = replace(config, workers=team.count)
    taken_over.check()
    return taken_over
