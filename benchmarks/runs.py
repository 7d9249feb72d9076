"""Training runs: Surrogate Minimization and the peers it is compared with, on the same clock and counted alike.

The time of round r is when the parameters of round r were in place: what a method then spends to learn their loss
belongs to the next round. Losses are those of the whole batch.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Adam

from benchmarks.clock import Stopwatch, in_turns, now
from benchmarks.harness import median
from benchmarks.problems import Problem, cross_entropy
from surmin import CrossEntropy, StepReport, SurrogateMinimizer, partition

STAGES = 4
ADAM_KINDS: dict[str, dict[str, Any]] = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {}}


@dataclass(frozen=True)
class Milestone:
    """What it took to reach a loss: all infinite where it was not reached."""

    rounds: float
    seconds: float
    work: float
    waves: float


NEVER = Milestone(math.inf, math.inf, math.inf, math.inf)


@dataclass
class Run:
    """One training run. Index r of the lists describes the network after r rounds; all but the losses are cumulative.

    Attributes:
        losses: training losses.
        seconds: time.
        work: in gradient-equivalents, counted.
        waves: forward waves, acceptance included.
        rises: accepted rounds after which the loss was not lower.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=lambda: [0.0])
    work: list[float] = field(default_factory=lambda: [0.0])
    waves: list[int] = field(default_factory=lambda: [0])
    rises: int = 0

    @property
    def rounds(self) -> int:
        """Rounds so far."""
        return len(self.seconds) - 1

    def add_round(self, seconds: float, work: float = 1, waves: int = 1) -> None:
        """Note a round and what it took."""
        self.seconds.append(seconds)
        self.work.append(self.work[-1] + work)
        self.waves.append(self.waves[-1] + waves)

    def reach(self, loss: float) -> Milestone:
        """What it took to get to a loss for the first time."""
        for r, value in enumerate(self.losses):
            if value <= loss:
                return Milestone(r, self.seconds[r], self.work[r], self.waves[r])
        return NEVER


def surrogate(model: nn.Sequential, seed: int, *, stages: int = STAGES, **options: Any) -> SurrogateMinimizer:
    """`sm` on a network cut into stages."""
    return SurrogateMinimizer(partition(model, stages), CrossEntropy(), seed=seed, **options)


def run_surrogate(problem: Problem, seed: int, until: float, limit: int, **options: Any) -> Run:
    """Train by Surrogate Minimization until a loss is reached, or so many rounds are over."""
    model = problem.network(seed)
    minimizer = surrogate(model, seed, **options)
    run, watch = Run([problem.loss(model)]), Stopwatch(problem.device)
    while run.losses[-1] > until and run.rounds < limit:
        with watch:
            report = minimizer.step(problem.inputs, problem.targets)
        run.losses.append(problem.loss(model))
        run.add_round(watch.seconds, report.gradient_equivalents, report.forward_waves)
        run.rises += _rose(report, run.losses)
    return run


def run_adam(problem: Problem, seed: int, until: float, limit: int, lr: float, kind: str) -> Run:
    """Train by full-batch Adam in a bare torch loop."""
    model = problem.network(seed)
    optimizer = Adam(model.parameters(), lr=lr, **ADAM_KINDS[kind])
    run, watch = Run(), Stopwatch(problem.device)
    while True:
        with watch:
            loss = cross_entropy(model(problem.inputs), problem.targets)
        run.losses.append(float(loss.detach()))
        if run.losses[-1] <= until or run.rounds >= limit or not math.isfinite(run.losses[-1]):
            return run
        with watch:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        run.add_round(watch.seconds)


def run_lbfgs(problem: Problem, seed: int, until: float, limit: int) -> Run:
    """Train by torch's L-BFGS with its strong-Wolfe line search; a "round" is one evaluation of loss and gradient."""
    model = problem.network(seed)
    optimizer = LBFGS(
        model.parameters(),
        max_iter=limit,
        max_eval=limit,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )
    run, start = Run(), now(problem.device)

    def evaluate() -> Tensor:
        if run.losses:
            run.add_round(now(problem.device) - start)
        optimizer.zero_grad()
        loss = cross_entropy(model(problem.inputs), problem.targets)
        run.losses.append(float(loss.detach()))
        if run.losses[-1] <= until or run.rounds >= limit:
            raise _Over
        loss.backward()
        return loss

    with suppress(_Over):
        optimizer.step(evaluate)
    return run


def fastest_adam(problem: Problem) -> str:
    """Which of torch's ways to compute Adam's step is the fastest here."""
    steps = [partial(adam_step(problem.network(0), 1e-3, kind), problem.inputs, problem.targets) for kind in ADAM_KINDS]
    seconds = [median(own) for own in in_turns(steps, 9, problem.device)]
    return list(ADAM_KINDS)[seconds.index(min(seconds))]


def adam_step(model: nn.Module, lr: float, kind: str = "fused") -> Callable[[Tensor, Tensor], None]:
    """One step of Adam on a batch."""
    optimizer = Adam(model.parameters(), lr=lr, **ADAM_KINDS[kind])

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return step


def gradient(problem: Problem, model: nn.Module) -> Callable[[], None]:
    """One forward and backward pass by plain autograd: the unit of time."""
    parameters = list(model.parameters())

    def compute() -> None:
        torch.autograd.grad(cross_entropy(model(problem.inputs), problem.targets), parameters)

    return compute


class _Over(Exception):
    """Leaves torch's L-BFGS from inside an evaluation."""


def _rose(report: StepReport, losses: Sequence[float]) -> bool:
    return report.accepted and not losses[-1] < losses[-2]
