"""`surmin train`."""

from pathlib import Path

from surmin.commands.launching import launch
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs.folder import default_folder


def train(config: RunConfig, out: Path | None, resume: Path | None) -> int:
    """Start or continue a run: on workers if that is what is asked for, here otherwise."""
    path = out or resume or default_folder(config.method, config.data)
    code = launch(config, path, resume)
    if code is None:
        from surmin.commands.training import train_here  # here: it imports torch

        code = train_here(config, path, resume)
    return code
