"""Starting a command's work on workers of this machine. Importing this imports no torch: they do that, once each."""

import os
import sys
from pathlib import Path

from surmin.experiments.configs.run import ExperimentConfig, RunConfig
from surmin.experiments.runs.folder import check_unclaimed
from surmin.launch.supervisor import supervise
from surmin.launch.worker import this_worker


def launch(config: ExperimentConfig, path: Path, resume: Path | None = None) -> int | None:
    """Check what can be checked beforehand, and run the same command on workers of this machine if requested.

    Args:
        config: the options given.
        path: the folder to write; it must be new or empty, or the one being resumed.
        resume: the folder of a run to continue.

    Returns:
        The workers' exit code; None if this process must do the work, alone or as a worker.

    Raises:
        ValueError: if options are not possible, or the folder is in use.
    """
    worker = this_worker()
    if worker is None:
        config.check()
    if resume is None:
        config.check_effects()
    if path != resume and (worker is None or worker.rank == 0):
        check_unclaimed(path)
    if worker is not None or config.workers == 1:
        return None
    words = [*config.to_words(), "--out", str(path), *(["--resume", str(resume)] if resume else [])]
    command = [sys.executable, *_safe_path(), "-m", "surmin", config.command, *words]
    resumable = path if isinstance(config, RunConfig) else None
    return supervise(config.workers, command, timeout=config.timeout, folder=resumable)


def _safe_path() -> list[str]:
    """What keeps the working folder off the workers' path, as it is off this process's: `-m` puts it first.

    A user's `code.py` or `queue.py` there would be imported instead of Python's own.
    """
    return ["-P"] if {"", os.getcwd()}.isdisjoint(sys.path) else []
