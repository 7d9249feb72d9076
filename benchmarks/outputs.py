"""A hundred outputs: `sm` with the exact factor of 99 columns, and with fewer drawn at random."""

from dataclasses import asdict

import torch

from benchmarks.clock import ratios
from benchmarks.harness import Result, Settings, Table, median, number, spread
from benchmarks.problems import CLASSES, Problem, mnist
from benchmarks.runs import Run, run_surrogate
from surmin.models import mlp

LOSS = 1e-3
RANKS = (None, 32, 16)
ROUND_LIMIT = 50
SEEDS = 3
COLUMNS = ("columns", "rounds", "seconds", "of the exact ones'", "work, gradients")


def run(settings: Settings) -> Result:
    """Pairs of images, to be told which pair of digits they show."""
    result = Result()
    for layers in (4,) if settings.quick else (4, 8):
        problem = _pairs(settings, layers)
        run_surrogate(problem, 0, 0, 1)  # warm-up
        runs: dict[int | None, list[Run]] = {rank: [] for rank in RANKS}
        for seed in settings.seeds(SEEDS):
            settings.note(f"{problem.name}: all ranks, seed {seed}")
            for rank, own in runs.items():
                own.append(run_surrogate(problem, seed, LOSS, ROUND_LIMIT, rank=rank))
        result.tables.append(_table(problem, runs))
        result.figures[problem.name] = {_columns(rank): [asdict(run) for run in own] for rank, own in runs.items()}
    return result


def _pairs(settings: Settings, layers: int) -> Problem:
    count, width = (200, 16) if settings.quick else (4000, 64)
    data = mnist(2 * count, settings.device)
    inputs = torch.cat(data.train_inputs.split(count), 1)
    first, second = data.train_targets.split(count)
    shape = tuple(inputs.shape[1:])
    name = f"pairs of digits, relu {layers} × {width}, {count} samples"
    return Problem(name, inputs, CLASSES * first + second, lambda: mlp(shape, CLASSES**2, layers, width))


def _table(problem: Problem, runs: dict[int | None, list[Run]]) -> Table:
    exact = [run.reach(LOSS).seconds for run in runs[None]]
    rows = []
    for rank, own in runs.items():
        reached = [run.reach(LOSS) for run in own]
        seconds = [milestone.seconds for milestone in reached]
        rows.append((
            _columns(rank), spread([milestone.rounds for milestone in reached]), spread(seconds, 1),
            number(median(ratios(seconds, exact)), 2), spread([milestone.work for milestone in reached]),
        ))  # fmt: skip
    return Table(f"{problem.name} to {LOSS:g}, median (range) over {len(runs[None])} seeds", COLUMNS, rows)


def _columns(rank: int | None) -> str:
    return "exact" if rank is None else str(rank)
