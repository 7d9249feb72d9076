"""`surmin paper`: every method tuned at every depth and N, then run on several seeds; resumable run by run."""

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from surmin.data import Dataset
from surmin.experiments.comparisons.completing import FailedRunError, complete, finished_rows
from surmin.experiments.comparisons.jobs import each
from surmin.experiments.comparisons.paper_runs import (
    TUNING_SEED,
    Cell,
    PaperResult,
    PaperRun,
    cells,
    result_runs,
    tuning_runs,
)
from surmin.experiments.configs.paper import PaperConfig
from surmin.experiments.configs.run import ExperimentConfig, RunConfig
from surmin.experiments.runs.folder import RunFolder
from surmin.experiments.runs.metrics import Row, read_rows
from surmin.experiments.runs.problem import load_data
from surmin.experiments.runs.run import Run, status_of
from surmin.experiments.runs.team import ALONE

TIMED = 3
"""Rounds that the estimate times; the first, in which things are made once, does not count."""


def run_paper(
    config: PaperConfig, path: Path, on_result: Callable[[PaperResult], None] = lambda result: None
) -> list[PaperResult]:
    """Make all runs that are not made yet: first those that tune, then the others; after Ctrl-C, what was begun.

    Where a run cannot go on, that one ends and the others do not; continued, it is tried again.

    Args:
        config: the options.
        path: the grid's folder, claimed already.
        on_result: called with every result as it is there, finished earlier or now.
    """
    grid = cells(config)
    tuning: dict[Cell, list[PaperResult]] = {cell: [] for cell in grid}
    results: list[PaperResult] = []
    make = partial(_make, path)
    for result in each(make, [run for cell in grid for run in tuning_runs(config, cell)], config.jobs):
        tuning[result.run.cell].append(result)
        results.append(result)
        on_result(result)
        if result.status == "interrupted":
            return results
    for result in each(make, [run for c in grid for run in result_runs(config, c, tuning[c])], config.jobs):
        results.append(result)
        on_result(result)
        if result.status == "interrupted":
            break
    return results


def finished(config: PaperConfig, path: Path) -> list[PaperResult]:
    """The results of runs that have come to their end; those of a cell only where its tuning has."""
    found = []
    for cell in cells(config):
        tuning = [result for run in tuning_runs(config, cell) if (result := _found(path, run)) is not None]
        found += tuning
        if len(tuning) == len(tuning_runs(config, cell)):
            found += [result for run in result_runs(config, cell, tuning) if (result := _found(path, run)) is not None]
    return found


def estimate(config: PaperConfig, path: Path, scratch: Path) -> dict[Cell, float]:
    """Seconds that what is left of each cell takes at most, evaluation included, from a few rounds of it timed now.

    Args:
        config: the options.
        path: the grid's folder, with what has been run of it; it need not exist.
        scratch: an empty folder for these rounds.

    Raises:
        KeyboardInterrupt: after Ctrl-C, as soon as the round that was begun is over.
    """
    seconds = {}
    for number, cell in enumerate(cells(config)):
        left = runs_left(config, cell, path)
        if not left:
            continue
        first = left[0]
        times: list[float] = []

        def note(row: Row, times: list[float] = times) -> None:
            times.append(time.perf_counter())

        with suppress(FailedRunError):  # it fails again in its own run, and is recorded there
            _, status = complete(scratch / str(number), replace(first.config, rounds=TIMED), _data(first.config), note)
            if status == "interrupted":
                raise KeyboardInterrupt
        gaps = [after - before for before, after in itertools.pairwise(times)]
        seconds[cell] = statistics.median(gaps or [0.0]) * sum(run.config.rounds for run in left)
    return seconds


def runs_left(config: PaperConfig, cell: Cell, path: Path) -> list[PaperRun]:
    """The runs of a cell that have not come to their end; before its tuning has, its results at any setting."""
    runs = tuning_runs(config, cell)
    tuning = [result for run in runs if (result := _found(path, run)) is not None]
    made = {result.run.name for result in tuning}
    left = [run for run in runs if run.name not in made]
    return [*left, *(run for run in result_runs(config, cell, tuning) if left or _found(path, run) is None)]


def check_grid(config: PaperConfig) -> None:
    """Build every method at every depth once.

    Raises:
        ValueError: for too large a seed; when one cannot run there, saying which and why, and which can.
    """
    replace(config, seed=config.seed + TUNING_SEED).check()
    complaints: dict[str, str] = {}
    for cell in cells(config):
        first = result_runs(config, cell, [])[0]
        try:
            Run(first.config, Path(), data=_data(first.config))
        except ValueError as error:
            complaints.setdefault(cell.contender, f"{cell.contender} cannot run with {cell.layers} layers: {error}")
    if complaints:
        able = ",".join(name for name in config.contenders if name not in complaints)
        advice = f"; these can: --methods {able}" if able else ""
        raise ValueError("; ".join(complaints.values()) + advice)


def _found(path: Path, run: PaperRun) -> PaperResult | None:
    rows = finished_rows(_folder(path, run), run.config)
    return None if rows is None else PaperResult(run, rows, status_of(rows, run.config))


def _folder(path: Path, run: PaperRun) -> Path:
    return path / "runs" / run.name


def _make(path: Path, run: PaperRun) -> PaperResult:
    folder = _folder(path, run)
    try:
        rows, status = complete(folder, run.config, _data(run.config))
    except FailedRunError as error:
        return _failed(run, RunFolder(folder).metrics, str(error))
    return PaperResult(run, rows, status)


def _failed(run: PaperRun, metrics: Path, failure: str) -> PaperResult:
    rows = read_rows(metrics) if metrics.exists() else []
    last = rows[-1] if rows else Row(-1, None, None)
    return PaperResult(run, [*rows, last.lost()], "failed", failure)


def _data(config: RunConfig) -> Dataset:
    return _loaded(ExperimentConfig(data=config.data, data_dir=config.data_dir, train_samples=config.train_samples,
                                    dtype=config.dtype, device=config.device))  # fmt: skip


@lru_cache(maxsize=1)
def _loaded(config: ExperimentConfig) -> Dataset:
    return load_data(config, ALONE)
