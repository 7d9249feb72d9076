"""Vectors in every trainable block's parameters: gradients, and the steps that blocks compute for themselves."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from surmin.methods.common.gradients import Gradients
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.block import Block

Blocks = Sequence[Sequence[Block]]
"""The blocks of every stage here, as returned by `WorkerPipeline.cut`."""
BlockVectors = Mapping[Block, Tensor]
"""A flat vector (P,) for every trainable block here."""


def to_blocks(blocks: Blocks, by_layer: Gradients) -> dict[Block, Tensor]:
    """What `backward` returns, by trainable block."""
    return {
        block: torch.cat(list(by_layer[block.stage][block.start : block.stop]))
        for own in blocks
        for block in own
        if block.size
    }


def inner(first: BlockVectors, second: BlockVectors) -> Tensor:
    """Inner product over the blocks here, 0-dimensional in float64."""
    products = [vector.double().dot(second[block].double()) for block, vector in first.items()]
    return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64)


def own_values(named: Mapping[str, Tensor], pipeline: WorkerPipeline) -> dict[str, Tensor]:
    """This worker's part of tensors under its parameters' global names.

    Raises:
        ValueError: if one is missing or has another shape.
    """
    found = {}
    for name, parameter in pipeline.parameters.items():
        if name not in named or named[name].shape != parameter.shape:
            raise ValueError(f"the state is of another network: it has nothing that fits parameter {name}")
        found[name] = named[name].detach().to(parameter.detach()).clone()
    return found
