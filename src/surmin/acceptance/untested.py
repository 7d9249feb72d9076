"""Taking the step that the local losses give, whatever it does to the loss (Appendix A)."""

import math
from dataclasses import dataclass

import torch

from surmin.acceptance.candidates import Candidate, Point
from surmin.acceptance.damping import Damping
from surmin.acceptance.parallel import ParallelOrder
from surmin.acceptance.search import Trial, start_error
from surmin.stages.block import moved_parameters


@dataclass(frozen=True)
class UntestedStep:
    """All blocks solve at the same time, at a damping that stays as it is, and no forward wave follows."""

    order: ParallelOrder

    def run(self, point: Point, damping: Damping) -> tuple[Trial, int, Damping]:
        """The step, accepted if it is finite; it costs no wave, and the damping stays the same."""
        results, pipeline = self.order.solve(point.problems, damping), self.order.pipeline
        promised = sum((result.decrease for result in results), torch.zeros_like(point.loss))
        numbers = torch.stack([own.double() for own in (point.loss, point.gradient_square, promised)])
        loss, gradient_square, predicted = pipeline.total(numbers)
        if not math.isfinite(gradient_square):
            raise start_error(loss, gradient_square)
        steps = [result.step for result in results]
        blocks = [problem.block for problem in point.problems]
        moved = moved_parameters(pipeline.stages, zip(blocks, steps, strict=True))
        step = Candidate(damping, results, steps, moved, None, math.nan, predicted)
        return Trial(step, loss, math.sqrt(gradient_square), math.isfinite(predicted)), 0, damping
