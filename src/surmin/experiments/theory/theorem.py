"""Testing Theorem 1: Algorithm 1 with gradient descent inside, and what its proof needs, checked in every round.

Legend: h the loss, g = ∇h, L_i the local losses with ρ = 0, d_i their steps, N inner steps of size 1/β, T rounds.
The proof: if every L_i is β-smooth then L_i(d_i) ≤ -‖g_i‖²/2β; if Σ_i L_i bounds h as well, where the steps lead, then
h_{t+1} ≤ h_t - ‖g_t‖²/2β; and summed over t, min_{t<T} ‖g_t‖² ≤ 2β (h_0 - h*)/T.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.experiments.theory.bound import ROUNDING
from surmin.experiments.theory.expansion import Expansion, expand, largest_eigenvalue
from surmin.options import Options
from surmin.pipeline.in_process import InProcessPipeline
from surmin.solvers.gradient_descent import GradientDescent

MARGIN = 1.01
"""Lanczos approaches λ_max from below: β is this much above what it finds."""
OVERSHOOT = 1.5
"""β is chosen this much above what a point needs: θ_0, or a later one with which all is restarted."""
LOWER_BOUND = 0.0
"""Stands for h*: cross-entropy and squared error are never below it, so the line is valid, if higher than with h*."""


@dataclass(frozen=True)
class TheoremRound:
    """One round, from θ_t to θ_{t+1}.

    Attributes:
        loss: h_t.
        gradient_square: ‖g_t‖².
        smoothness: the largest λ_max(ℍ_i) of this round's local losses, with its margin.
        promised: -Σ_i L_i(d_i).
        new_loss: h_{t+1}.
    """

    loss: float
    gradient_square: float
    smoothness: float
    promised: float
    new_loss: float

    @property
    def is_bounded(self) -> bool:
        """Whether the local losses bounded h where the step led: Proposition 1."""
        return self.new_loss <= self.loss - self.promised + self._rounding

    def descends_locally(self, smoothness: float) -> bool:
        """Whether Σ_i L_i(d_i) ≤ -‖g_t‖²/2β: what β-smoothness is needed for."""
        return self.promised >= self.gradient_square / (2 * smoothness) - self._rounding

    def descends(self, smoothness: float) -> bool:
        """Whether h_{t+1} ≤ h_t - ‖g_t‖²/2β: what the theorem is summed from."""
        return self.new_loss <= self.loss - self.gradient_square / (2 * smoothness) + self._rounding

    @property
    def _rounding(self) -> float:
        return ROUNDING * max(1.0, abs(self.loss))


@dataclass(frozen=True)
class TheoremRun:
    """Algorithm 1 from θ_0.

    Attributes:
        curvature: "scalar", "sample" or "factor".
        inner_steps: N.
        seed: of θ_0.
        smoothness: β, no smaller than any round's.
        restarts: how often β proved too small and all was restarted.
        rounds: t = 0 … T - 1.
    """

    curvature: str
    inner_steps: int
    seed: int
    smoothness: float
    restarts: int
    rounds: Sequence[TheoremRound]

    @property
    def least(self) -> list[float]:
        """min_{t<T} ‖g_t‖² for every T from 1."""
        return list(itertools.accumulate((each.gradient_square for each in self.rounds), min))

    @property
    def line(self) -> list[float]:
        """2β (h_0 - h*)/T for every T from 1."""
        height = 2 * self.smoothness * (self.rounds[0].loss - LOWER_BOUND)
        return [height / count for count in range(1, len(self.rounds) + 1)]

    @property
    def bound_failures(self) -> int:
        """Rounds in which the local losses did not bound h where the step led."""
        return sum(not each.is_bounded for each in self.rounds)

    @property
    def local_failures(self) -> int:
        """Rounds in which the local losses fell by less than ‖g‖²/2β: β was too small then."""
        return sum(not each.descends_locally(self.smoothness) for each in self.rounds)

    @property
    def descent_failures(self) -> int:
        """Rounds in which h fell by less than ‖g‖²/2β."""
        return sum(not each.descends(self.smoothness) for each in self.rounds)

    @property
    def above_line(self) -> int:
        """Number of T for which the theorem's inequality was broken."""
        return sum(least > line for least, line in zip(self.least, self.line, strict=True))

    @property
    def speaks_from(self) -> float:
        """The T from which the line is below ‖g_0‖²: before, it says less than is known at the start."""
        return self.line[0] / self.rounds[0].gradient_square


def run_theorem(
    pipeline: InProcessPipeline, inputs: Tensor, targets: Tensor, options: Options, *,
    rounds: int, lanczos_steps: int, tell: Callable[[int], None] = lambda done: None,
) -> TheoremRun:  # fmt: skip
    """Run Algorithm 1 with inner steps of size 1/β, β the largest eigenvalue of any block in any round.

    That β is known only afterwards. So it starts with `OVERSHOOT` times the largest at θ_0, and restarts from θ_0 as
    soon as a round needs more. The network is left at θ_T.

    Args:
        pipeline: with the network, float64.
        inputs: the whole data: the theorem is about full batches.
        targets: of the data.
        options: which curvature, N inner steps, and the seed.
        rounds: T.
        lanczos_steps: products spent on each λ_max.
        tell: called with the rounds done.

    Raises:
        ValueError: if nothing curves.
    """
    start = {name: value.detach().clone() for name, value in pipeline.parameters.items()}
    here = expand(pipeline, inputs, targets, options)
    smoothness, restarts = OVERSHOOT * _smoothness(here, lanczos_steps), 0
    while True:
        found = _attempt(pipeline, inputs, targets, options, smoothness, rounds, lanczos_steps, tell)
        if not isinstance(found, float):
            return TheoremRun(options.curvature, options.inner_steps, options.seed, smoothness, restarts, found)
        smoothness, restarts = OVERSHOOT * found, restarts + 1
        with torch.no_grad():
            for name, value in pipeline.parameters.items():
                value.copy_(start[name])


def _attempt(
    pipeline: InProcessPipeline, inputs: Tensor, targets: Tensor, options: Options,
    smoothness: float, rounds: int, lanczos_steps: int, tell: Callable[[int], None],
) -> list[TheoremRound] | float:  # fmt: skip
    """All rounds with this β, or the larger one that some round needs."""
    solver = GradientDescent(options.inner_steps, 1 / smoothness)
    done: list[TheoremRound] = []
    here = expand(pipeline, inputs, targets, options)
    while len(done) < rounds:
        needed = _smoothness(here, lanczos_steps)
        if needed > smoothness:
            return needed
        promised = _move(pipeline, here, solver)
        there = expand(pipeline, inputs, targets, options)
        done.append(TheoremRound(here.value, here.gradient_square, needed, promised, there.value))
        here = there
        tell(len(done))
    return done


def _smoothness(here: Expansion, lanczos_steps: int) -> float:
    largest = MARGIN * max(largest_eigenvalue(own.product, own.loss.gradient, lanczos_steps) for own in here.blocks)
    if not 0 < largest < math.inf:
        raise ValueError(f"the local losses' largest eigenvalue is {largest:g}: there is no step size 1/β to try")
    return largest


@torch.no_grad()
def _move(pipeline: InProcessPipeline, here: Expansion, solver: GradientDescent) -> float:
    """Take every block's step; return how much the local losses fell."""
    parameters, promised = pipeline.parameters, 0.0
    for own in here.blocks:
        result = solver.solve(own.loss)
        promised += float(result.decrease)
        for name, step in own.block.named(result.step).items():
            parameters[name].add_(step)
    return promised
