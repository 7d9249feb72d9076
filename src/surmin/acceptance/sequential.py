"""Local phase and forward wave in one (waves 4 and 5): stage by stage, on the way up."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.acceptance.candidates import Attempt, Candidate, Point
from surmin.acceptance.damping import Damping
from surmin.local_phase import NonlinearProblem
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.solvers.result import SolverResult
from surmin.stages.stage import Stage
from surmin.stages.tape import LayerParameters


@dataclass(frozen=True)
class SequentialOrder:
    """Every stage solves when the activations of the stages below, already moved, arrive; then it sends its own on.

    A block-wise Gauss-Seidel method where `ParallelOrder` is a Jacobi method: no stage handles what another has already
    taken care of, so κ = 1. Candidates go from the largest λ to the smallest, each starting where the stage ended with
    the previous one.

    Attributes:
        pipeline: runs the forward waves.
    """

    pipeline: WorkerPipeline

    def attempt(self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]) -> Attempt:
        """One wave up; then the last worker knows all sums and tells the others."""
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
