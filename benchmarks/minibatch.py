"""Test accuracy from mini-batches: all 60,000 images, 4 × 128, batches of 4,000, Adam beside it on the same batches."""

from dataclasses import asdict

import torch

from benchmarks.harness import Result, Settings, Table, Target, median, spread
from benchmarks.problems import CLASSES, IMAGE, Problem, batches, mnist
from benchmarks.runs import Mark, adam_step, follow, surrogate
from surmin.data import Dataset
from surmin.models import mlp

UPDATES = (15, 45)
BATCH = 4000
ADAM_RATE = 3e-3
SEEDS = 5


def run(settings: Settings) -> Result:
    """`sm` after 15 and 45 updates; Adam after as many, and after as much time."""
    data = mnist(8000 if settings.quick else None, settings.device)
    problem = Problem("relu 4 × 128", data.train_inputs, data.train_targets, lambda: mlp(IMAGE, CLASSES, 4, 128))
    surrogate(problem.network(0), 0).step(problem.inputs[:BATCH], problem.targets[:BATCH])  # warm-up
    marks: dict[str, list[list[Mark]]] = {"sm": [], "adam": [], "adam, sm's time": []}
    for seed in settings.seeds(SEEDS):
        _train(problem, data, seed, marks, UPDATES[:1] if settings.quick else UPDATES)
    name, accuracy = f"{problem.name}, batches of {BATCH}", median([own[-1].score for own in marks["sm"]])
    target = Target(f"{name}: test accuracy at {UPDATES[-1]} updates, median", accuracy, 97.5, at_least=True)
    figures = {method: [[asdict(mark) for mark in own] for own in seeds] for method, seeds in marks.items()}
    return Result([_table(name, marks)], [target], {"marks": figures})


def _train(problem: Problem, data: Dataset, seed: int, marks: dict[str, list[list[Mark]]], updates: tuple[int, ...]) -> None:
    """One seed: `sm`, then Adam on the same batches for as many updates and on until it has had as much time."""
    model = problem.network(seed)
    step = surrogate(model, seed).step
    own, _ = follow(step, _batches(problem, seed), lambda: _accuracy(model, data), problem.device, updates)
    peer = problem.network(seed)
    equal, timed = follow(
        adam_step(peer, ADAM_RATE), _batches(problem, seed), lambda: _accuracy(peer, data), problem.device,
        updates, [mark.seconds for mark in own],
    )  # fmt: skip
    for method, found in zip(marks, (own, equal, timed), strict=True):
        marks[method].append(found)


def _batches(problem: Problem, seed: int):  # type: ignore[no-untyped-def]
    return batches(problem.inputs, problem.targets, BATCH, seed)


@torch.no_grad()
def _accuracy(model: torch.nn.Module, data: Dataset) -> float:
    return float((model(data.test_inputs).argmax(1) == data.test_targets).double().mean() * 100)


def _table(name: str, marks: dict[str, list[list[Mark]]]) -> Table:
    rows = []
    for position in range(len(marks["sm"][0])):
        for method, seeds in marks.items():
            at = [own[position] for own in seeds]
            ratio = [ours[position].seconds / mark.seconds for ours, mark in zip(marks["sm"], at, strict=True)]
            rows.append((
                method, spread([m.updates for m in at]), spread([m.score for m in at], 2), spread([m.seconds for m in at], 2),
                "" if method == "sm" else spread(ratio, 2),
            ))  # fmt: skip
    columns = ("method", "updates", "test accuracy, %", "seconds", "seconds, sm's over it")
    return Table(f"{name}, median (range) over {len(marks['sm'])} seeds; adam {ADAM_RATE:g}", columns, rows)
