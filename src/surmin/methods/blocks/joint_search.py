"""One step length for the steps that all blocks have computed for themselves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.errors import NonFiniteError
from surmin.methods.blocks.block_vectors import BlockVectors, inner
from surmin.methods.common.armijo_search import ArmijoSearch, SearchResult
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.wave import StageParameters, Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.stages.block import moved_parameters


@dataclass(frozen=True)
class JointSearch:
    """What a search along θ + α d found; numbers are summed over all workers.

    Attributes:
        loss: h(θ).
        square: ‖∇h‖².
        slope: ⟨∇h, d⟩.
        others: sums of the other numbers given.
        search: by Armijo's line search from α = 1.
    """

    loss: float
    square: float
    slope: float
    others: Sequence[float]
    search: SearchResult

    def report(
        self, meter: StepMeter, wave: Wave, *, predicted_decrease: float = math.nan, reduction_ratio: float = math.nan,
        damping: float = math.nan,
    ) -> StepReport:  # fmt: skip
        """The round's report; what a method has no model for stays NaN."""
        return meter.report(
            wave.shape, self.loss, math.sqrt(self.square), new_loss=self.search.value,
            predicted_decrease=predicted_decrease, reduction_ratio=reduction_ratio, damping=damping,
            accepted=self.search.length > 0, tries=self.search.tries,
        )  # fmt: skip


def search_jointly(
    pipeline: WorkerPipeline, wave: Wave, batch: tuple[Tensor, Tensor], gradients: BlockVectors,
    steps: BlockVectors, others: Sequence[Tensor] = (),
) -> JointSearch:  # fmt: skip
    """Move the network to the first of α = 1, ½, ¼, … with h(θ + α d) ≤ h(θ) + 10⁻⁴ α ⟨∇h, d⟩.

    The accepted trial serves as the next round's first wave if the batch is the same. There is no trial if d is not a
    descent direction.

    Args:
        pipeline: the network.
        wave: at θ.
        batch: inputs and targets of the wave.
        gradients: ∇h.
        steps: d.
        others: this worker's shares of other numbers to be summed, 0-dimensional.

    Raises:
        NonFiniteError: if the loss or its slope is not finite.
    """
    shares = [wave.loss, inner(gradients, gradients), inner(gradients, steps), *others]
    loss, square, slope, *sums = pipeline.total(torch.stack([share.to(wave.loss) for share in shares]))
    if not (math.isfinite(loss) and math.isfinite(slope)):
        raise NonFiniteError(f"no step can be tested against a loss of {loss} with a slope of {slope}")

    def moved(length: float) -> StageParameters:
        return moved_parameters(pipeline.stages, [(block, length * step) for block, step in steps.items()])

    found = ArmijoSearch(pipeline, 1.0).descend(*batch, moved, -slope, loss, lambda trial: trial.loss)
    if found.wave is not None:
        pipeline.accept(found.wave)
    return JointSearch(loss, square, slope, sums, found)
