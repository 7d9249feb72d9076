"""From a case to what the waves leave in every block."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from surmin.curvature.output_curvature import OutputCurvature
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.wave import BlockExpansion
from surmin.stages.block import Block, cut_blocks
from surmin.stages.stage import Stage
from surmin.surrogates.nonlinear import NonlinearLocalLoss, nonlinear_local_loss, quadratic_surrogate
from surmin.work import WorkMeter
from tests.cases import Case


def block_expansions(
    stages: Sequence[nn.Module], case: Case, batch: tuple[Tensor, Tensor], curvature: OutputCurvature, *,
    blocks: Literal["layer", "stage"] = "layer", microbatches: int = 1, seed: int = 0,
) -> list[BlockExpansion]:  # fmt: skip
    """Waves 1 to 3 over stages, keeping the cotangents at every block's boundary."""
    pipeline = InProcessPipeline(stages, case.loss, microbatches=microbatches)
    own = cut_blocks(pipeline.stages, blocks)
    boundaries = {}
    if curvature.needs_cotangents:
        boundaries = {cut[0].stage: [block.start for block in cut if block.start] for cut in own}
    wave = pipeline.forward(*batch)
    gradients = pipeline.backward(wave, boundaries)
    with torch.no_grad():
        return pipeline.curvature(wave, gradients, own, curvature, seed)


def only_block(module: nn.Module) -> Block:
    """A module as the one block of the one stage of a network."""
    ((block,),) = cut_blocks([Stage.of(module)], "stage")
    return block


def local_loss_of(expansion: BlockExpansion, samples: int) -> NonlinearLocalLoss:
    """The nonlinear local loss of a block, whose curvature comes from so many samples."""
    surrogate = quadratic_surrogate(expansion.block, expansion.tapes, expansion.messages, samples)
    return nonlinear_local_loss(expansion.block, expansion.tapes, surrogate, WorkMeter(), expansion.kind)
