"""Runs of a collection, each in a folder of its own: finished ones are read, others trained or continued."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from surmin.checkpoints.round_folder import newest_round
from surmin.data import Dataset
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs.folder import FolderInUseError, RunFolder, written_by_one
from surmin.experiments.runs.metrics import Row, read_rows
from surmin.experiments.runs.run import Run, Status, status_of
from surmin.experiments.runs.saved import SavedRun
from surmin.launch.reports import DEBUG_VARIABLE, one_line


class FailedRunError(Exception):
    """A run that could not go on, out of memory say; the message is one line."""


def finished_rows(path: Path, config: RunConfig) -> Sequence[Row] | None:
    """The rows of a run that has come to its end, None where there is still something to do."""
    folder = RunFolder(path)
    rows = read_rows(folder.metrics) if folder.metrics.exists() else []
    for number in range(1, len(rows) + 1):  # it may have gone beyond what is asked for now
        if status_of(rows[number - 1 : number], config) != "interrupted":
            return rows[:number]
    return None


def complete(
    path: Path, config: RunConfig, data: Dataset, on_row: Callable[[Row], None] = lambda row: None
) -> tuple[Sequence[Row], Status]:
    """All rows of a run and how it ended; it is trained as far as it is not yet.

    Args:
        path: the run's folder.
        config: its options.
        data: what it runs on.
        on_row: called with every new row.

    Raises:
        FailedRunError: when it cannot go on; where a person debugs and it is torch that cannot, torch's own error.
        FolderInUseError: when another process trains it.
    """
    rows = finished_rows(path, config)
    if rows is not None:
        return rows, status_of(rows, config)
    try:
        return _train(path, config, data, on_row)
    except RuntimeError as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        raise FailedRunError(one_line(error)) from error


def _train(path: Path, config: RunConfig, data: Dataset, on_row: Callable[[Row], None]) -> tuple[Sequence[Row], Status]:
    run = Run(config, path, data=data)
    _clear_unless_saved(path)
    try:
        if newest_round(RunFolder(path).checkpoint):
            _resume(run, path)
        else:
            run.start()
        status = run.train(on_row)
    except FolderInUseError:
        raise
    except ValueError as error:  # what only the first batch shows, say
        raise FailedRunError(str(error)) from error
    return run.rows, status


def _clear_unless_saved(path: Path) -> None:
    """Empty the folder of a run that was cut off before its first checkpoint.

    Raises:
        FolderInUseError: when another process writes there.
    """
    if not path.is_dir():
        return
    with written_by_one(path):
        if newest_round(RunFolder(path).checkpoint):
            return
        for entry in path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _resume(run: Run, path: Path) -> None:
    try:
        run.resume(SavedRun.read(path))
    except FolderInUseError:
        raise
    except ValueError as error:
        raise FailedRunError(f"{path} cannot be continued, remove it to begin that run anew: {error}") from error
