"""What cheaper columns cost in rounds: fewer bits on the wire, and fewer columns, with three presets of `sm`.

The network, data and stages of `links.race`, in one process, where traffic is counted as between four workers: no link
is needed. A setting is fixed for all seeds; megabytes are those of all workers until 1e-3, or of all rounds.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from benchmarks.harness import Result, Settings, Table, median, spread
from benchmarks.links.entries import FAR
from benchmarks.links.race import LAYERS, ROUND_LIMIT, WORKERS
from benchmarks.problems import Problem, mnist_mlp
from surmin import CrossEntropy, SurrogateMinimizer, partition
from surmin.pipeline.in_process import InProcessPipeline

SEEDS = 10
PRESETS = ("trips", "links", "compute")
RANKS = (None, 4, 2)
WIRES = (None, "bfloat16", "float16", "int8")
COLUMNS = ("preset, columns, wire", "rounds to 1e-3", "forward waves", "MB to 1e-3", "MB a round", "not reached")


@dataclass(frozen=True)
class Cost:
    """What one seed needed; if 1e-3 is not reached, rounds and waves are infinite and megabytes those of all rounds."""

    seed: int
    rounds: float
    waves: float
    megabytes: float
    megabytes_a_round: float
    last_loss: float


def run(settings: Settings) -> Result:
    """One row a setting; the settings take turns, seed after seed."""
    problem = mnist_mlp(settings, LAYERS)
    choices = list(product(PRESETS, RANKS, WIRES))
    found: dict[str, list[Cost]] = {_name(*choice): [] for choice in choices}
    for seed in settings.seeds(SEEDS):
        settings.note(f"{problem.name}: every setting, seed {seed}")
        for preset, rank, wire in choices:
            found[_name(preset, rank, wire)].append(train(problem, seed, preset=preset, rank=rank, wire=wire))
    title = f"{problem.name}, {WORKERS} stages, to {FAR:g}; median (range) over {len(settings.seeds(SEEDS))} seeds"
    figures = {name: [asdict(cost) for cost in costs] for name, costs in found.items()}
    return Result([Table(title, COLUMNS, [_row(name, costs) for name, costs in found.items()])], [], {"costs": figures})


def train(problem: Problem, seed: int, **options: Any) -> Cost:
    """Until 1e-3, or for as many rounds as the race allows."""
    pipeline = InProcessPipeline(partition(problem.network(seed), WORKERS), CrossEntropy())
    minimizer = SurrogateMinimizer(pipeline, seed=seed, **options)
    rounds, loss = 0, math.inf
    while rounds < ROUND_LIMIT["sm"] and loss > FAR:
        loss = minimizer.step(problem.inputs, problem.targets).new_loss
        rounds += 1
    megabytes, reached = pipeline.traffic.bytes / 1e6, loss <= FAR
    needed, waves = (rounds, pipeline.traffic.forward_waves) if reached else (math.inf, math.inf)
    return Cost(seed, needed, waves, megabytes, megabytes / rounds, loss)


def _name(preset: str, rank: int | None, wire: str | None) -> str:
    return f"{preset}, {'exact' if rank is None else f'rank {rank}'}, {wire or 'as they are'}"


def _row(name: str, costs: Sequence[Cost]) -> tuple[str, ...]:
    missed = sum(math.isinf(cost.rounds) for cost in costs)
    told = f"{missed} of {len(costs)} in {ROUND_LIMIT['sm']} rounds" if missed else ""
    megabytes = [math.inf if math.isinf(cost.rounds) else cost.megabytes for cost in costs]
    return (
        name,
        spread([cost.rounds for cost in costs]),
        spread([cost.waves for cost in costs]),
        spread(megabytes),
        f"{median([cost.megabytes_a_round for cost in costs]):.1f}",
        told,
    )
