"""Training runs: Surrogate Minimization and the peers it is compared with, on the same clock and counted alike.

The time of round r is when the parameters of round r were in place: what a method then spends to learn their loss is the
next round's. Losses are full-batch training losses, learnt off the clock, or from the next round's own forward pass.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Adam

from benchmarks.clock import Stopwatch, in_turns, now
from benchmarks.problems import Problem, cross_entropy
from surmin import CrossEntropy, StepReport, SurrogateMinimizer, partition

STAGES = 4
ADAM_KINDS: dict[str, dict[str, bool]] = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {}}


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


def surrogate(model: nn.Sequential, seed: int, **options: Any) -> SurrogateMinimizer:
    """`sm` on a network cut into stages."""
    return SurrogateMinimizer(partition(model, STAGES), CrossEntropy(), seed=seed, **options)


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
        model.parameters(), max_iter=limit, max_eval=limit, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0
    )  # fmt: skip
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
        optimizer.step(evaluate)  # type: ignore[arg-type]
    return run


def fastest_adam(problem: Problem) -> str:
    """Which of torch's ways to compute Adam's step is the fastest here."""
    kinds = list(ADAM_KINDS)
    steps = [adam_step(problem.network(0), 1e-3, kind) for kind in kinds]
    seconds = in_turns([lambda s=s: s(problem.inputs, problem.targets) for s in steps], 7, problem.device)
    return min(zip(seconds, kinds, strict=True), key=lambda pair: sorted(pair[0])[len(pair[0]) // 2])[1]


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


@dataclass(frozen=True)
class Mark:
    """A score after some updates, and the time they took."""

    updates: int
    seconds: float
    score: float


def follow(
    step: Callable[[Tensor, Tensor], Any], data: Iterable[tuple[Tensor, Tensor]], score: Callable[[], float],
    device: torch.device, updates: Sequence[int] = (), times: Sequence[float] = (),
) -> tuple[list[Mark], list[Mark]]:  # fmt: skip
    """Train on batches, taking the score (off the clock) after given numbers of updates, and at given times.

    Args:
        step: one update on a batch.
        data: the batches.
        score: of the network as it is.
        device: where it is.
        updates: when to take the score, ascending.
        times: the same in seconds, ascending; the first update that ends later counts.

    Returns:
        The marks at `updates`, and those at `times`.
    """
    watch = Stopwatch(device)
    at_updates: list[Mark] = []
    at_times: list[Mark] = []
    for count, batch in enumerate(data, start=1):
        with watch:
            step(*batch)
        while len(at_updates) < len(updates) and count >= updates[len(at_updates)]:
            at_updates.append(Mark(count, watch.seconds, score()))
        while len(at_times) < len(times) and watch.seconds >= times[len(at_times)]:
            at_times.append(Mark(count, watch.seconds, score()))
        if len(at_updates) == len(updates) and len(at_times) == len(times):
            break
    return at_updates, at_times


def _rose(report: StepReport, losses: Sequence[float]) -> bool:
    return report.accepted and not losses[-1] < losses[-2]
