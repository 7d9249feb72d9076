"""Local phase, then forward wave (waves 4 and 5): all blocks at the same time.

Legend: d a step, λ the damping, κ the decoupling's inflation, β the share of the last step that is added as momentum.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.acceptance.candidates import Attempt, Candidate, Point
from surmin.acceptance.damping import Damping
from surmin.local_phase import Problem
from surmin.options import Options
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.solvers.result import SolverResult
from surmin.stages.block import moved_parameters


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
