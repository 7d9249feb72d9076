"""Test accuracy from mini-batches: all 60,000 images, 4 × 128, batches of 4,000, tuned Adam on the same batches."""

import torch
from torch import nn

from benchmarks.harness import Result, Settings, Target, median
from benchmarks.marks import Race, marks_figures, marks_table
from benchmarks.problems import CLASSES, IMAGE, Problem, mnist
from surmin.models import mlp

UPDATES = (15, 45)
BATCH = 4000
ADAM_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SEEDS = 13


def run(settings: Settings) -> Result:
    """`sm` after 15 and 45 updates; Adam after as many, and after as much time."""
    data = mnist(8000 if settings.quick else None, settings.device)
    problem = Problem("relu 4 × 128", data.train_inputs, data.train_targets, lambda: mlp(IMAGE, CLASSES, 4, 128))

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(data.test_inputs).argmax(1) == data.test_targets).double().mean() * 100)

    updates = (3, 6) if settings.quick else UPDATES
    found = Race(problem, BATCH, accuracy, updates, {}, ADAM_RATES, max).run(settings, SEEDS)
    name = f"{problem.name}, {len(problem.inputs)} images, batches of {BATCH}"
    measured = median([own[-1].score for own in found["sm"]])
    target = Target(f"{name}: test accuracy, %, at {UPDATES[-1]} updates, median", measured, 97.5, at_least=True)
    return Result([marks_table(name, "test accuracy, %", found, 2)], [target], {"marks": marks_figures(found)})
