"""Beyond MLPs: a small CNN on MNIST images, and a small GPT on characters, tuned Adam beside them."""

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from benchmarks.harness import Result, Settings, Table, Target, median, spread
from benchmarks.marks import Race, Score, marks_figures, marks_table
from benchmarks.problems import CLASSES, IMAGE, Problem, cross_entropy, mnist
from benchmarks.runs import Run, run_adam, run_surrogate
from surmin.data import load_dataset
from surmin.models import cnn, gpt

LOSS = 1e-3
ADAM_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
CNN_ROUNDS, CNN_LIMIT, ADAM_LIMIT = 14, 40, 400
CNN_SETTINGS: dict[str, dict[str, Any]] = {
    "sm, N = 20": {"blocks": "stage", "inner_steps": 20},
    "sm, N = 3": {"blocks": "stage"},
}
GPT_SETTINGS: dict[str, Any] = {"blocks": "stage", "rank": 2, "inner_steps": 10}
GPT_BATCH, CONTEXT, HELD_OUT = 128, 64, 512
GPT_ROUNDS = (10, 20, 30)
SEEDS = 3


def run(settings: Settings) -> Result:
    """The CNN to a loss, the GPT for a number of rounds."""
    result = Result()
    _cnn(result, settings)
    _gpt(result, settings)
    return result


def _cnn(result: Result, settings: Settings) -> None:
    data = mnist(200 if settings.quick else 2000, settings.device)
    problem = Problem("cnn, 4 layers × 16", data.train_inputs, data.train_targets, lambda: cnn(IMAGE, CLASSES, 4, 16))
    run_surrogate(problem, 0, 0, 1, blocks="stage")  # warm-up
    run_adam(problem, 0, 0, 2, ADAM_RATES[0], "fused")
    runs: dict[str, list[Run]] = {name: [] for name in (*CNN_SETTINGS, *map(_adam, ADAM_RATES))}
    for seed in settings.seeds(SEEDS):
        settings.note(f"{problem.name}: all methods, seed {seed}")
        for name, options in CNN_SETTINGS.items():
            runs[name].append(run_surrogate(problem, seed, LOSS, CNN_LIMIT, **options))
        for lr in ADAM_RATES:
            runs[_adam(lr)].append(run_adam(problem, seed, LOSS, ADAM_LIMIT, lr, "fused"))
    best = min(map(_adam, ADAM_RATES), key=lambda name: median([run.reach(LOSS).rounds for run in runs[name]]))
    result.tables.append(_cnn_table(problem, {name: runs[name] for name in (*CNN_SETTINGS, best)}))
    rounds = [run.reach(LOSS).rounds for run in runs["sm, N = 20"]]
    result.targets.append(Target("cnn, N = 20: rounds to 1e-3, median", median(rounds), CNN_ROUNDS))
    rises = sum(run.rises for name in CNN_SETTINGS for run in runs[name])
    result.targets.append(Target("cnn: accepted rounds that did not lower the loss", rises, 0))
    result.figures["cnn"] = {name: [asdict(run) for run in own] for name, own in runs.items()}


def _adam(lr: float) -> str:
    return f"adam {lr:g}"


def _cnn_table(problem: Problem, runs: dict[str, list[Run]]) -> Table:
    *_, adam = ([run.reach(LOSS) for run in own] for own in runs.values())
    rows = []
    for name, own in runs.items():
        reached = [run.reach(LOSS) for run in own]
        over = [
            [getattr(ours, what) / getattr(peer, what) for ours, peer in zip(reached, adam, strict=True)]
            for what in ("rounds", "seconds")
        ]
        rows.append((
            name,
            spread([milestone.rounds for milestone in reached]),
            spread([milestone.seconds for milestone in reached], 1),
            spread([milestone.work for milestone in reached]),
            *(spread(values, 2) for values in over),
        ))  # fmt: skip
    columns = ("method", "rounds", "seconds", "gradients' work", "rounds over adam's", "seconds over adam's")
    title = f"{problem.name}, {len(problem.inputs)} images, to {LOSS:g}: median (range) over {len(adam)} seeds"
    return Table(title, columns, rows)


def _gpt(result: Result, settings: Settings) -> None:
    problem, score = _text(settings)
    rounds = (2, 4) if settings.quick else GPT_ROUNDS
    found = Race(problem, GPT_BATCH, score, rounds, GPT_SETTINGS, ADAM_RATES, min).run(settings, SEEDS)
    title = f"{problem.name}, batches of {GPT_BATCH} × {CONTEXT} characters, two columns, N = 10"
    result.tables.append(marks_table(title, "held-out loss", found, 3))
    result.figures["gpt"] = marks_figures(found)


def _text(settings: Settings) -> tuple[Problem, Score]:
    """Character windows to train on, and the loss on some held out."""
    data, device = load_dataset("text", context=CONTEXT), settings.device
    layers, width = (2, 16) if settings.quick else (4, 64)
    inputs, targets = data.test_inputs[:HELD_OUT].to(device), data.test_targets[:HELD_OUT].to(device)

    @torch.no_grad()
    def held_out_loss(model: nn.Module) -> float:
        return float(cross_entropy(model(inputs), targets))

    def build() -> nn.Sequential:
        return gpt(data.classes, CONTEXT, layers, width)

    name = f"gpt, {layers} blocks × {width}"
    return Problem(name, data.train_inputs.to(device), data.train_targets.to(device), build), held_out_loss
