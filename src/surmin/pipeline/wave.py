"""What the waves leave behind in the stages that one worker holds."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surmin.curvature.gauss_newton import GaussNewton
from surmin.curvature.input_moment import InputMomentCache
from surmin.curvature.moments import Moments, estimate_moments
from surmin.curvature.output_curvature import BlockCurvature, Message
from surmin.replicas import Replicas
from surmin.stages.block import Block
from surmin.stages.stage import Stage
from surmin.stages.tape import LayerParameters, Tape
from surmin.work import WorkMeter

StageParameters = Mapping[Stage, LayerParameters]
"""For every stage, the values of its layers' parameters."""


@dataclass
class Wave:
    """What a forward wave leaves behind.

    Attributes:
        shape: of the whole batch of the network's inputs.
        targets: by micro-batch.
        tapes: by stage, then by micro-batch.
        loss: the mean loss h, 0-dimensional; summed in float64, so that small decreases show. 0 if another worker holds
            the network's last stage: `total` then gives the loss to all.
        gradients: what the gradient wave found, if it came with the forward wave.
        cotangents: of the mean loss in the outputs, by micro-batch number, for those requested so far.
    """

    shape: torch.Size
    targets: Sequence[Tensor]
    tapes: list[list[Tape]]
    loss: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    gradients: dict[Stage, list[Tensor]] | None = None
    cotangents: dict[int, Tensor] = field(default_factory=dict)

    @property
    def part_shape(self) -> torch.Size:
        """Shape of a micro-batch of the network's inputs."""
        return part_shape(self.shape, len(self.targets))

    @property
    def outputs(self) -> list[Tensor]:
        """The last stage's outputs, by micro-batch."""
        return [tape.output.detach() for tape in self.tapes[-1]]


@dataclass(frozen=True)
class BlockExpansion:
    """What the gradient and curvature waves leave in one trainable block: all it needs for its local phase.

    Attributes:
        block: the block.
        gradient: ∂h/∂θ_i, a flat vector (P,).
        curvature: the curvature of its local loss.
        tapes: its stage's tapes, by micro-batch.
        messages: the output curvature that arrived at its output.
        kind: the shape of the whole batch, the curvature and the block's layers; equal kinds mean equal work.
    """

    block: Block
    gradient: Tensor
    curvature: BlockCurvature
    tapes: Sequence[Tape]
    messages: Sequence[Message]
    kind: Hashable

    def products(self, work: WorkMeter) -> Callable[[Tensor], Tensor]:
        """v ↦ ℍ v over this replica's samples, counted."""
        with work.phase(("record", self.kind)):
            self.curvature.record()
        return work.counted(("product", self.kind), self.curvature.product)

    def moments(self, cache: InputMomentCache, seed: int, work: WorkMeter, replicas: Replicas) -> list[Moments]:
        """Kronecker moments of its layers over all replicas' samples, counted; only if factors went down the pipe."""
        assert isinstance(self.curvature, GaussNewton)
        first = None
        if self.block.index == 0:
            first = cache.of([tape.inputs[self.block.first_trainable] for tape in self.tapes])
        with work.phase(("moments", self.kind, first is not None and first.is_known)):
            return estimate_moments(self.curvature, first, seed, replicas)


def part_shape(shape: torch.Size, parts: int) -> torch.Size:
    """The shape of one of several equal parts of a batch."""
    return torch.Size([shape[0] // parts, *shape[1:]])
