"""Runs of a collection, each in its own folder: finished ones are read, others trained or continued."""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from surmin.checkpoints.round_folder import newest_round
from surmin.data import Dataset
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs.folder import FolderInUseError, RunFolder, written_by_one
from surmin.experiments.runs.metrics import Row, read_rows
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.saved import SavedRun
from surmin.experiments.runs.status import Status, status_after
from surmin.launch.reports import DEBUG_VARIABLE, one_line


class Planned(Protocol):
    """A run of a collection."""

    @property
    def name(self) -> str:
        """Name of its folder, under `runs` in the collection's."""

    @property
    def config(self) -> RunConfig:
        """Its options."""


AnyRun = TypeVar("AnyRun", bound=Planned)


@dataclass(frozen=True)
class Result(Generic[AnyRun]):
    """A run, as far as it got.

    Attributes:
        run: which one.
        rows: of its `metrics.jsonl`; one more without figures if it failed.
        status: how it ended.
        failure: why it could not go on (out of memory, for instance); one line.
    """

    run: AnyRun
    rows: Sequence[Row]
    status: Status | Literal["failed"]
    failure: str = ""

    @property
    def last(self) -> Row:
        """What it ended with."""
        return self.rows[-1]

    @property
    def quality(self) -> tuple[float, float]:
        """Rounds to the target loss, or infinite; then the last loss. Less is better."""
        rounds = float(self.last.round) if self.status == "reached" else math.inf
        return rounds, math.inf if self.last.loss is None else self.last.loss


def run_folder(collection: Path, run: Planned) -> Path:
    """The folder of a run in a collection."""
    return collection / "runs" / run.name


def finished_runs(collection: Path, runs: Iterable[AnyRun]) -> dict[str, Result[AnyRun]]:
    """The finished ones of some runs, by name.

    Raises:
        ValueError: if one has gone on past the last of its rounds without an evaluation there.
    """
    return {run.name: result for run in runs if (result := _finished(collection, run)) is not None}


def complete(
    collection: Path, run: AnyRun, data: Dataset, on_row: Callable[[Row], None] = lambda row: None
) -> Result[AnyRun]:
    """A run, trained as far as it is not yet, or "failed" if it cannot go on.

    Args:
        collection: the folder of the collection.
        run: which one.
        data: what it runs on.
        on_row: called with every new row.

    Raises:
        FolderInUseError: if another process is training it.
        RuntimeError: torch's own, when debugging.
    """
    result = _finished(collection, run)
    if result is not None:
        return result
    try:
        return _train(collection, run, data, on_row)
    except FolderInUseError:
        raise
    except (ValueError, RuntimeError) as error:  # such as what only the first batch shows, or out of memory
        if isinstance(error, RuntimeError) and os.environ.get(DEBUG_VARIABLE):
            raise
        rows = _rows(collection, run)
        last = rows[-1] if rows else Row(-1, None, None)
        return Result(run, [*rows, last.lost()], "failed", one_line(error))


def _finished(collection: Path, run: AnyRun) -> Result[AnyRun] | None:
    """None if there is still something to do."""
    rows, rounds = _rows(collection, run), run.config.rounds
    for number, row in enumerate(rows, start=1):  # it may have gone beyond what is asked for now
        if row.round > rounds:
            raise ValueError(
                f"{run_folder(collection, run)} has no figures of round {rounds} and has gone on: ask for "
                f"{rows[number - 2].round} or {row.round} rounds"
            )
        status = status_after(row, run.config)
        if status != "interrupted":
            return Result(run, rows[:number], status)
    return None


def _rows(collection: Path, run: Planned) -> list[Row]:
    metrics = RunFolder(run_folder(collection, run)).metrics
    return read_rows(metrics) if metrics.exists() else []


def _train(collection: Path, planned: AnyRun, data: Dataset, on_row: Callable[[Row], None]) -> Result[AnyRun]:
    path = run_folder(collection, planned)
    run = Run(planned.config, path, data=data)
    _clear_unless_saved(path)
    if newest_round(RunFolder(path).checkpoint):
        _resume(run, path)
    else:
        run.start()
    status = run.train(on_row)
    return Result(planned, run.rows, status)


def _clear_unless_saved(path: Path) -> None:
    """Empty the folder of a run that was cut off before its first checkpoint.

    Raises:
        FolderInUseError: if another process writes there.
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
        raise ValueError(f"{path} cannot be continued, remove it to begin that run anew: {error}") from error
