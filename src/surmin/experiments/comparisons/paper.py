"""`surmin paper`: every method tuned at every depth and N, then run on several seeds; resumable run by run."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from surmin.data import Dataset
from surmin.experiments.comparisons.completing import complete
from surmin.experiments.comparisons.jobs import each
from surmin.experiments.comparisons.paper_grid import CONTENDERS, write_value
from surmin.experiments.configs.paper import PaperConfig
from surmin.experiments.configs.run import ExperimentConfig, RunConfig
from surmin.experiments.runs.metrics import Row
from surmin.experiments.runs.problem import load_data
from surmin.experiments.runs.run import Run, Status
from surmin.experiments.runs.team import ALONE

TUNING_SEED = 1000
"""How far the seed that settings are chosen on is from the first that results come from."""

TIMED = 3
"""Rounds that the estimate times; the first, in which things are made once, does not count."""


@dataclass(frozen=True)
class Cell:
    """A method at a depth and, where it takes inner steps, at an N."""

    layers: int
    contender: str
    inner_steps: int | None

    @property
    def label(self) -> str:
        """The method, and N where it has one."""
        return self.contender if self.inner_steps is None else f"{self.contender} (N = {self.inner_steps})"

    @property
    def settings(self) -> list[dict[str, Any]]:
        """All combinations of the values that are tried."""
        tuned = CONTENDERS[self.contender].tuned
        return [dict(zip(tuned, values, strict=True)) for values in itertools.product(*tuned.values())]


@dataclass(frozen=True)
class PaperRun:
    """One run of the grid, `seed` None for the one that only tunes."""

    cell: Cell
    setting: tuple[tuple[str, Any], ...]
    seed: int | None
    config: RunConfig

    @property
    def name(self) -> str:
        """Its folder under the grid's."""
        steps = "" if self.cell.inner_steps is None else f"-N{self.cell.inner_steps}"
        values = "".join(f"-{name}{write_value(value, '_')}" for name, value in self.setting)
        kind = "tuning" if self.seed is None else f"seed{self.seed}"
        return f"layers{self.cell.layers}/{self.cell.contender}{steps}{values}-{kind}"


@dataclass(frozen=True)
class PaperResult:
    """A run that has been made."""

    run: PaperRun
    rows: Sequence[Row]
    status: Status

    @property
    def quality(self) -> tuple[float, float]:
        """Rounds to the target loss, else infinite; then the last loss. Less is better."""
        rounds = float(self.rows[-1].round) if self.status == "reached" else math.inf
        loss = self.rows[-1].loss
        return rounds, math.inf if loss is None else loss


def by_cell(results: Iterable[PaperResult]) -> dict[Cell, list[PaperResult]]:
    """The results of every cell; runs that only chose a setting are left out."""
    groups: dict[Cell, list[PaperResult]] = {}
    for result in results:
        if result.run.seed is not None:
            groups.setdefault(result.run.cell, []).append(result)
    return groups


def cells(config: PaperConfig) -> list[Cell]:
    """All cells of the grid, depth by depth."""
    return [
        Cell(layers, name, steps)
        for layers in config.depths
        for name in config.contenders
        for steps in (config.inner_steps if CONTENDERS[name].takes_steps else [None])
    ]


def tuning_runs(config: PaperConfig, cell: Cell) -> list[PaperRun]:
    """One run for every setting of a cell; none where there is nothing to choose."""
    if len(cell.settings) == 1:
        return []
    seed, rounds = config.seed + TUNING_SEED, config.rounds_to_tune
    return [PaperRun(cell, tuple(s.items()), None, _run(config, cell, s, seed, rounds)) for s in cell.settings]


def result_runs(config: PaperConfig, cell: Cell, tuning: Sequence[PaperResult]) -> list[PaperRun]:
    """The runs at the best setting, one a seed; the setting is the one whose tuning run was best."""
    chosen = dict(min(tuning, key=lambda result: result.quality).run.setting) if tuning else cell.settings[0]
    seeds = range(config.seed, config.seed + config.seeds)
    return [
        PaperRun(cell, tuple(chosen.items()), seed, _run(config, cell, chosen, seed, config.rounds)) for seed in seeds
    ]


def run_paper(
    config: PaperConfig, path: Path, on_result: Callable[[PaperResult], None] = lambda result: None
) -> list[PaperResult]:
    """Make all runs that are not made yet: first those that tune, then the others; after Ctrl-C, what was begun.

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


def estimate(config: PaperConfig, scratch: Path) -> dict[Cell, float]:
    """Seconds that each cell will take at most, evaluation included, from a few rounds of it timed now.

    Args:
        config: the options.
        scratch: an empty folder for these rounds.
    """
    seconds = {}
    for number, cell in enumerate(cells(config)):
        first = (*tuning_runs(config, cell), *result_runs(config, cell, []))[0]
        times: list[float] = []

        def note(row: Row, times: list[float] = times) -> None:
            times.append(time.perf_counter())

        complete(scratch / str(number), replace(first.config, rounds=TIMED), _data(first.config), note)
        gaps = [after - before for before, after in itertools.pairwise(times)]
        rounds = len(tuning_runs(config, cell)) * config.rounds_to_tune + config.seeds * config.rounds
        seconds[cell] = statistics.median(gaps or [0.0]) * rounds
    return seconds


def run_count(config: PaperConfig) -> int:
    """How many runs the grid has."""
    return sum(len(tuning_runs(config, cell)) + config.seeds for cell in cells(config))


def check_grid(config: PaperConfig) -> None:
    """Build every method at every depth once; raises ValueError for the first that cannot run there."""
    for cell in cells(config):
        first = result_runs(config, cell, [])[0]
        try:
            Run(first.config, Path(), data=_data(first.config))
        except ValueError as error:
            raise ValueError(f"{cell.contender} cannot run with {cell.layers} layers: {error}") from error


def _run(config: PaperConfig, cell: Cell, setting: dict[str, Any], seed: int, rounds: int) -> RunConfig:
    contender = CONTENDERS[cell.contender]
    steps = {} if cell.inner_steps is None else {"inner_steps": cell.inner_steps}
    return config.run(cell.layers, contender.method, {**contender.options, **setting, **steps}, seed, rounds)


def _make(path: Path, run: PaperRun) -> PaperResult:
    rows, status = complete(path / "runs" / run.name, run.config, _data(run.config))
    return PaperResult(run, rows, status)


def _data(config: RunConfig) -> Dataset:
    return _loaded(ExperimentConfig(data=config.data, data_dir=config.data_dir, train_samples=config.train_samples,
                                    dtype=config.dtype, device=config.device))  # fmt: skip


@lru_cache(maxsize=1)
def _loaded(config: ExperimentConfig) -> Dataset:
    return load_data(config, ALONE)
