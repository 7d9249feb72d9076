"""The local losses of a network at its current parameters: whole batch, exact curvature, nothing adapted."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surmin.curvature.eigenvalue import lanczos
from surmin.curvature.output_curvature import Message
from surmin.options import Options
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.wave import BlockExpansion, Wave
from surmin.stages.block import Block
from surmin.surrogates.local_loss import LocalLoss
from surmin.upper_bound import inflation, output_curvature


@dataclass(frozen=True)
class LocalBlock:
    """One trainable block.

    Attributes:
        block: the block.
        loss: L_i of equation (1), κ included.
        output: the output curvature that arrived at its output.
    """

    block: Block
    loss: LocalLoss
    output: Message

    @torch.no_grad()
    def product(self, direction: Tensor) -> Tensor:
        """ℍ_i v."""
        return self.loss.product(direction)


@dataclass(frozen=True)
class Expansion:
    """A network's loss at one point, and what bounds it around there.

    Attributes:
        value: h(θ̄).
        blocks: every trainable block, from the first to the last.
    """

    value: float
    blocks: list[LocalBlock]

    @property
    def gradient_square(self) -> float:
        """‖∇h(θ̄)‖²."""
        return sum(float(own.loss.gradient.square().sum()) for own in self.blocks)


def expand(pipeline: InProcessPipeline, inputs: Tensor, targets: Tensor, options: Options) -> Expansion:
    """Waves 1 to 3.

    Args:
        pipeline: with the network; one micro-batch.
        inputs: the batch (n, *in).
        targets: of the batch.
        options: which curvature and blocks; curvature is taken exactly and on the whole batch.

    Raises:
        ValueError: if the batch does not fit.
    """
    options = exactly(options)
    wave = pipeline.forward(inputs, targets)
    found = block_expansions(pipeline, wave, options)
    blocks = [
        LocalBlock(
            own.block, LocalLoss(own.gradient, own.curvature.product, kappa, cubic=options.cubic), own.messages[0]
        )
        for own, kappa in zip(found, inflation(options, len(found)), strict=True)
    ]
    return Expansion(float(wave.loss), blocks)


def exactly(options: Options) -> Options:
    """The same local losses of the whole batch, of full rank, and of blocks that move together."""
    return replace(options, rank=None, curvature_fraction=1.0, wire=None, order="parallel")


def block_expansions(pipeline: InProcessPipeline, wave: Wave, options: Options) -> list[BlockExpansion]:
    """Waves 2 and 3: what they leave in every trainable block, with the gradient kept at every block's boundary."""
    cut, _ = pipeline.cut(options.blocks)
    boundaries = {own[0].stage: [block.start for block in own if block.start] for own in cut}
    gradients = pipeline.backward(wave, boundaries)
    return pipeline.curvature(wave, gradients, cut, output_curvature(options), options.seed)


def largest_eigenvalue(product: Callable[[Tensor], Tensor], like: Tensor, steps: int) -> float:
    """λ_max of a symmetric matrix by Lanczos from a fixed random start; an estimate from below.

    Args:
        product: (P,) to (P,).
        like: any such vector.
        steps: products.
    """
    generator = torch.Generator(like.device).manual_seed(0)
    start = torch.randn(1, len(like), generator=generator, dtype=like.dtype, device=like.device)
    return float(lanczos(lambda rows: product(rows[0]).unsqueeze(0), start, steps))
