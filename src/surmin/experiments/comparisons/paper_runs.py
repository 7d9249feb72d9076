"""The runs that the paper's grid consists of."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from surmin.experiments.comparisons.completing import Result
from surmin.experiments.configs.contenders import CONTENDERS, write_value
from surmin.experiments.configs.paper import MOST_SEEDS, PaperConfig
from surmin.experiments.configs.run import RunConfig

TUNING_SEED = MOST_SEEDS
"""Distance of the seed that settings are chosen on from the first that results come from."""


@dataclass(frozen=True)
class Cell:
    """A method at a depth and, if it takes inner steps, at an N."""

    layers: int
    contender: str
    inner_steps: int | None

    @property
    def label(self) -> str:
        """The method, and N if it has one."""
        return self.contender if self.inner_steps is None else f"{self.contender} (N = {self.inner_steps})"

    @property
    def settings(self) -> list[dict[str, Any]]:
        """All combinations of the values to try."""
        tuned = CONTENDERS[self.contender].tuned
        return [dict(zip(tuned, values, strict=True)) for values in itertools.product(*tuned.values())]


@dataclass(frozen=True)
class PaperRun:
    """One run of the grid; `seed` is None for one that only tunes."""

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


PaperResult = Result[PaperRun]


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
    """One run for every setting of a cell; none if there is nothing to choose."""
    if len(cell.settings) == 1:
        return []
    seed, rounds = config.seed + TUNING_SEED, config.rounds_to_tune
    return [PaperRun(cell, tuple(s.items()), None, _run(config, cell, s, seed, rounds)) for s in cell.settings]


def result_runs(config: PaperConfig, cell: Cell, tuning: Sequence[PaperResult]) -> list[PaperRun]:
    """The runs at the best setting, one per seed; the setting is the one whose tuning run was best."""
    chosen = dict(min(tuning, key=lambda result: result.quality).run.setting) if tuning else cell.settings[0]
    seeds = range(config.seed, config.seed + config.seeds)
    return [
        PaperRun(cell, tuple(chosen.items()), seed, _run(config, cell, chosen, seed, config.rounds)) for seed in seeds
    ]


def run_count(config: PaperConfig) -> int:
    """How many runs the grid has."""
    return sum(len(tuning_runs(config, cell)) + config.seeds for cell in cells(config))


def _run(config: PaperConfig, cell: Cell, setting: dict[str, Any], seed: int, rounds: int) -> RunConfig:
    contender = CONTENDERS[cell.contender]
    steps = {} if cell.inner_steps is None else {"inner_steps": cell.inner_steps}
    return config.run(cell.layers, contender.method, {**contender.options, **setting, **steps}, seed, rounds)
