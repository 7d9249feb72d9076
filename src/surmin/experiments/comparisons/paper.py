"""`surmin paper`: every method tuned at every depth and N, then run on several seeds; resumable run by run."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from surmin.data import Dataset
from surmin.experiments.comparisons.completing import complete, finished_runs
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
from surmin.experiments.runs.metrics import Row
from surmin.experiments.runs.problem import load_data
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.team import ALONE

Known = Mapping[str, PaperResult]
"""What `finished` has found, by run name."""
TIMED = 3
"""Rounds that the estimate times; the first, which includes one-time setup, does not count."""


def run_paper(
    config: PaperConfig, path: Path, known: Known, on_result: Callable[[PaperResult], None] = lambda result: None
) -> list[PaperResult]:
    """Make all runs that are not made yet: first those that tune, then the others; after Ctrl-C, finish what was begun.

    If a run cannot go on, it ends and the others do not; when continued, it is tried again.

    Args:
        config: the options.
        path: the grid's folder, claimed already.
        known: what `finished` has found there.
        on_result: called with every result as it is available, finished earlier or now.
    """
    results: list[PaperResult] = []
    for result in _results(config, path, known):
        results.append(result)
        on_result(result)
        if result.status == "interrupted":
            break
    return results


def finished(config: PaperConfig, path: Path) -> dict[str, PaperResult]:
    """The results of finished runs, by name; those of a cell only if its tuning is finished."""
    found: dict[str, PaperResult] = {}
    for cell in cells(config):
        runs = tuning_runs(config, cell)
        tuning = finished_runs(path, runs)
        found |= tuning
        if len(tuning) == len(runs):
            found |= finished_runs(path, result_runs(config, cell, list(tuning.values())))
    return found


def estimate(config: PaperConfig, known: Known, scratch: Path) -> dict[Cell, float]:
    """Most seconds that the rest of each cell takes, evaluation included, from a few rounds of it timed now.

    Args:
        config: the options.
        known: what has been run of it.
        scratch: an empty folder for these rounds.

    Raises:
        KeyboardInterrupt: after Ctrl-C, as soon as the current round is over.
    """
    seconds = {}
    for number, cell in enumerate(cells(config)):
        left = runs_left(config, cell, known)
        if not left:
            continue
        first = left[0]
        times: list[float] = []

        def note(row: Row, times: list[float] = times) -> None:
            times.append(time.perf_counter())

        brief = replace(first, config=replace(first.config, rounds=TIMED))
        result = complete(scratch / str(number), brief, _data(first.config), note)
        if result.status == "interrupted":  # a failure will recur in the run itself, and is recorded there
            raise KeyboardInterrupt
        gaps = [after - before for before, after in itertools.pairwise(times)]
        seconds[cell] = statistics.median(gaps or [0.0]) * sum(run.config.rounds for run in left)
    return seconds


def runs_left(config: PaperConfig, cell: Cell, known: Known) -> list[PaperRun]:
    """The runs of a cell that are not finished; before its tuning is, its results at any setting."""
    tuning = tuning_runs(config, cell)
    results = result_runs(config, cell, [known[run.name] for run in tuning if run.name in known])
    return [run for run in (*tuning, *results) if run.name not in known]


def check_grid(config: PaperConfig) -> None:
    """Build every method at every depth once.

    Raises:
        ValueError: for too large a seed; or if one cannot run there, saying which and why, and which can.
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


def _results(config: PaperConfig, path: Path, known: Known) -> Iterator[PaperResult]:
    """All results of the grid in order; unknown ones are made."""
    grid = cells(config)
    tuning: dict[Cell, list[PaperResult]] = {cell: [] for cell in grid}
    results_of = partial(_results_of, config.jobs, path, known)
    for result in results_of([run for cell in grid for run in tuning_runs(config, cell)]):
        tuning[result.run.cell].append(result)
        yield result
    yield from results_of([run for cell in grid for run in result_runs(config, cell, tuning[cell])])


def _results_of(jobs: int, path: Path, known: Known, runs: Sequence[PaperRun]) -> Iterator[PaperResult]:
    made = each(partial(_make, path), [run for run in runs if run.name not in known], jobs)
    for run in runs:
        yield known[run.name] if run.name in known else next(made)


def _make(path: Path, run: PaperRun) -> PaperResult:
    return complete(path, run, _data(run.config))


def _data(config: RunConfig) -> Dataset:
    return _loaded(ExperimentConfig(data=config.data, data_dir=config.data_dir, train_samples=config.train_samples,
                                    dtype=config.dtype, device=config.device))  # fmt: skip


@lru_cache(maxsize=1)
def _loaded(config: ExperimentConfig) -> Dataset:
    return load_data(config, ALONE)
