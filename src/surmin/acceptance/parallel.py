"""Local phase, then forward wave (waves 4 and 5): all blocks at the same time.

Legend: d a step, λ the damping, κ the decoupling's inflation, β the share of the last step added as momentum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.acceptance.candidates import Attempt, Candidate, Point
from surmin.acceptance.damping import Damping
from surmin.local_phase import Problem
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.solvers.result import SolverResult
from surmin.stages.block import moved_parameters


@dataclass(frozen=True)
class ParallelOrder:
    """All blocks solve at the same time, without communication, and the forward wave follows.

    Attributes:
        pipeline: runs the forward waves.
        inflation: κ of every trainable block, by its index.
    """

    pipeline: WorkerPipeline
    inflation: Sequence[float]

    def attempt(self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]) -> Attempt:
        """Solve, try all candidates in one forward wave, sum over stages."""
        solved = list(self._solved(point, dampings, momenta))
        blocks = [problem.block for problem in point.problems]
        moved = [moved_parameters(self.pipeline.stages, zip(blocks, steps, strict=True)) for _, _, steps in solved]
        waves = self.pipeline.forward_candidates(point.inputs, point.targets, moved)
        numbers = [point.loss, point.gradient_square]
        for (_, results, _), wave in zip(solved, waves, strict=True):
            numbers += [wave.loss, sum((result.decrease for result in results), torch.zeros_like(point.loss))]
        loss, gradient_square, *pairs = self.pipeline.total(torch.stack([number.double() for number in numbers]))
        candidates = [
            Candidate(*own, where, wave, new_loss, predicted)
            for own, where, wave, new_loss, predicted in zip(solved, moved, waves, pairs[::2], pairs[1::2], strict=True)
        ]
        return Attempt(candidates, loss, gradient_square)

    def solve(self, problems: Sequence[Problem], damping: Damping) -> list[SolverResult]:
        """Every block minimises its local loss at this λ and share of κ."""
        with torch.no_grad(), self.pipeline.tracer.span("U"):
            return [
                problem.solve(max(1.0, damping.inflation_share * self.inflation[problem.block.index]), damping.value)
                for problem in problems
            ]

    def _solved(
        self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]
    ) -> Iterator[tuple[Damping, list[SolverResult], list[Tensor]]]:
        """For every damping, the blocks' solutions, and for every momentum β the steps d + β d_previous.

        Momentum costs no solving: the step that the last round took is added as is, and predicts nothing of its own.
        """
        for damping in dampings:
            results = self.solve(point.problems, damping)
            for momentum in (0.0,) if point.previous is None else momenta:
                steps = [result.step for result in results]
                if momentum and point.previous is not None:
                    previous = [problem.block.flatten(point.previous) for problem in point.problems]
                    steps = [step + momentum * last.to(step) for step, last in zip(steps, previous, strict=True)]
                yield damping, results, steps
