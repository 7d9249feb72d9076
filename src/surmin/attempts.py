"""Steps to be tested: local phase and forward wave (waves 4 and 5), either one after the other or stage by stage.

Legend: θ̄ the current parameters, d a step, h the network's loss, λ the damping, κ the decoupling's inflation, β the
share of the last step that is added as momentum.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from surmin.damping import Damping
from surmin.local_phase import NonlinearProblem, Problem
from surmin.options import Options
from surmin.pipeline.wave import StageParameters, Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.solvers.result import SolverResult
from surmin.stages.block import moved_parameters
from surmin.stages.stage import LayerParameters, Stage


@dataclass(frozen=True)
class Point:
    """The current parameters with all that waves 1 to 3 left there.

    Attributes:
        inputs: the whole batch.
        targets: of the whole batch.
        loss: h(θ̄), 0-dimensional.
        problems: what every trainable block has to minimise.
        gradient_square: ‖∂h/∂θ‖², 0-dimensional.
        previous: the last accepted step by the parameters' global names; None before there is one.
    """

    inputs: Tensor
    targets: Tensor
    loss: Tensor
    problems: Sequence[Problem]
    gradient_square: Tensor
    previous: Mapping[str, Tensor] | None


@dataclass(frozen=True)
class Candidate:
    """A step that has been computed, and where it leads.

    Attributes:
        damping: what it was computed with.
        results: of every block's solver.
        steps: d of every block: the solver's step, and a share of the previous step where momentum is tried.
        parameters: θ̄ + d, tensors of their own.
        wave: the forward wave there; None where steps are not tested.
        new_loss: h(θ̄ + d), NaN where steps are not tested.
        predicted: the decrease of the local losses, added up over all workers.
    """

    damping: Damping
    results: Sequence[SolverResult]
    steps: Sequence[Tensor]
    parameters: StageParameters
    wave: Wave | None
    new_loss: float
    predicted: float


@dataclass(frozen=True)
class Attempt:
    """Candidates, and what the workers' sums say of the point they start from.

    Attributes:
        candidates: the steps.
        loss: h(θ̄).
        gradient_square: ‖∂h/∂θ‖² at θ̄.
    """

    candidates: Sequence[Candidate]
    loss: float
    gradient_square: float


class Order(Protocol):
    """In which order the blocks solve and the activations move."""

    def attempt(self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]) -> Attempt:
        """Candidates for all dampings and shares of the previous step, with one forward wave for all of them."""


@dataclass(frozen=True)
class ParallelOrder:
    """All blocks solve at the same time, without communication, and the forward wave follows.

    Attributes:
        pipeline: runs the forward waves.
        options: of the minimizer.
        inflation: κ of every trainable block, by its index.
    """

    pipeline: WorkerPipeline
    options: Options
    inflation: Sequence[float]

    def attempt(self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]) -> Attempt:
        """Solve, try all candidates in one forward wave, add up over stages."""
        solved = list(self._solved(point, dampings, momenta))
        blocks = [problem.block for problem in point.problems]
        moved = [moved_parameters(self.pipeline.stages, zip(blocks, steps, strict=True)) for _, _, steps in solved]
        waves: list[Wave | None] = [None] * len(moved)
        if self.options.adapt_damping:
            waves = list(self.pipeline.forward_candidates(point.inputs, point.targets, moved))
        zero, unknown = torch.zeros_like(point.loss), torch.full_like(point.loss, math.nan)
        numbers = [point.loss, point.gradient_square]
        for (_, results, _), wave in zip(solved, waves, strict=True):
            numbers += [unknown if wave is None else wave.loss, sum((r.decrease for r in results), zero)]
        loss, gradient_square, *pairs = self.pipeline.total(torch.stack([number.double() for number in numbers]))
        candidates = [
            Candidate(*own, where, wave, new_loss, predicted)
            for own, where, wave, new_loss, predicted in zip(solved, moved, waves, pairs[::2], pairs[1::2], strict=True)
        ]
        return Attempt(candidates, loss, gradient_square)

    def _solved(
        self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]
    ) -> Iterator[tuple[Damping, list[SolverResult], list[Tensor]]]:
        """For every damping the blocks' solutions, and for every momentum β the steps d + β d_previous.

        Momentum costs no solving: the step that the last round took is added as it is, and predicts nothing of its own.
        """
        for damping in dampings:
            results = self._solve(point.problems, damping)
            for momentum in (0.0,) if point.previous is None else momenta:
                steps = [result.step for result in results]
                if momentum and point.previous is not None:
                    previous = [problem.block.flatten(point.previous) for problem in point.problems]
                    steps = [step + momentum * last for step, last in zip(steps, previous, strict=True)]
                yield damping, results, steps

    def _solve(self, problems: Sequence[Problem], damping: Damping) -> list[SolverResult]:
        """Every block minimises its local loss at this λ and share of κ."""
        with torch.no_grad(), self.pipeline.tracer.span("U"):
            return [
                problem.solve(max(1.0, damping.inflation_share * self.inflation[problem.block.index]), damping.value)
                for problem in problems
            ]


@dataclass(frozen=True)
class SequentialOrder:
    """Every stage solves when the activations of the stages below, moved already, arrive; then it sends its own on.

    A block-wise Gauss-Seidel method where `ParallelOrder` is a Jacobi method: no stage takes on what another has taken
    care of already, so that κ = 1. Candidates come from the largest λ to the smallest, and each begins where the stage
    ended with the one before.

    Attributes:
        pipeline: runs the forward waves.
    """

    pipeline: WorkerPipeline

    def attempt(self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]) -> Attempt:
        """One wave up; the last worker then knows all sums and tells the others."""
        dampings = sorted(dampings, key=lambda damping: -damping.value)
        problems = {problem.block.stage: problem for problem in point.problems}
        results: dict[Stage, list[SolverResult]] = {stage: [] for stage in problems}

        def solve(stage: Stage, candidate: int, entering: Tensor | None) -> tuple[LayerParameters | None, Tensor]:
            """A stage's new parameters, and the decrease of its local loss."""
            if stage not in problems:
                return None, torch.zeros_like(point.gradient_square)
            problem = problems[stage]
            assert isinstance(problem, NonlinearProblem)
            moved = problem if entering is None else problem.entered_by(entering)
            with torch.no_grad(), self.pipeline.tracer.span("U"):
                start = results[stage][-1].step if results[stage] else None
                result = moved.solve(1.0, dampings[candidate].value, start)
            results[stage].append(result)
            return problem.block.moved(result.step), result.decrease

        share, count = point.gradient_square.reshape(1), len(dampings)
        waves, sums = self.pipeline.forward_solving(point.inputs, point.targets, share, count, solve)
        losses = torch.stack([point.loss, *[wave.loss for wave in waves]])
        told = self.pipeline.announce(torch.cat([losses.double(), sums]))
        loss, new_losses, gradient_square, decreases = told[0], told[1 : count + 1], told[count + 1], told[count + 2 :]
        candidates = []
        ends = zip(new_losses, decreases, strict=True)
        for number, (damping, wave, end) in enumerate(zip(dampings, waves, ends, strict=True)):
            own = [results[problem.block.stage][number] for problem in point.problems]
            moved = {stage: tapes[0].parameters for stage, tapes in zip(self.pipeline.stages, wave.tapes, strict=True)}
            candidates.append(Candidate(damping, own, [result.step for result in own], moved, wave, *end))
        return Attempt(candidates, loss, gradient_square)
