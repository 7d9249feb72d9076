"""Blocks: the runs of layers that get their own local loss."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from surmin.stages.layer import Layer, flatten
from surmin.stages.stage import Stage, group_by_trainable


@dataclass(frozen=True)
class Block:
    """Layers `start` to `stop` of one stage.

    `index` counts trainable blocks through the whole network (−1 for a block without parameters); block 0 is the first
    trainable one, below which no curvature is needed.
    """

    stage: Stage
    start: int
    stop: int
    index: int

    @property
    def layers(self) -> list[Layer]:
        """The block's layers in order."""
        return self.stage.layers[self.start : self.stop]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its layers, which no other block of the network has."""
        return tuple(layer.name for layer in self.layers)

    @property
    def size(self) -> int:
        """Number of trainable numbers."""
        return sum(layer.size for layer in self.layers)

    @property
    def first_trainable(self) -> int:
        """Position in the stage of the block's first trainable layer."""
        return next(index for index in range(self.start, self.stop) if self.stage.layers[index].size)

    @property
    def first_trainable_layer(self) -> Layer:
        """The block's first trainable layer; if blocks are layers, the one with weights."""
        return self.stage.layers[self.first_trainable]

    def split(self, vector: Tensor) -> tuple[Tensor, ...]:
        """A flat vector of the block as one flat vector per layer (views)."""
        return vector.split([layer.size for layer in self.layers])

    def vector(self) -> Tensor:
        """A copy of the block's parameters as one flat vector."""
        return flatten([p.detach() for layer in self.layers for p in layer.parameters.values()])

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """A flat vector as tensors of the parameters' shapes under their global names (views)."""
        pieces = zip(self.layers, self.split(vector), strict=True)
        return {
            f"{layer.name}.{name}": value for layer, piece in pieces for name, value in layer.unflatten(piece).items()
        }

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """The block's share of tensors under global names, as one flat vector."""
        return flatten([named[f"{layer.name}.{name}"] for layer in self.layers for name in layer.parameters])

    def moved(self, step: Tensor) -> list[dict[str, Tensor]]:
        """The parameters of the block's layers moved by a flat step, as new tensors that require gradients."""
        return [layer.moved(piece) for layer, piece in zip(self.layers, self.split(step), strict=True)]


def inner_boundaries(cut: Sequence[Sequence[Block]]) -> dict[Stage, list[int]]:
    """For every stage, the layers at which its second and further blocks begin.

    Args:
        cut: the blocks of every stage.
    """
    return {blocks[0].stage: [block.start for block in blocks[1:]] for blocks in cut}


def moved_parameters(
    stages: Sequence[Stage], steps: Iterable[tuple[Block, Tensor]]
) -> dict[Stage, list[Mapping[str, Tensor]]]:
    """The parameters θ + d of whole stages, as new tensors; the network's stay as they are.

    Args:
        stages: every trainable layer of theirs lies in the blocks.
        steps: flat steps d of blocks.
    """
    found: dict[Stage, list[Mapping[str, Tensor]]] = {stage: [{}] * len(stage.layers) for stage in stages}
    for block, step in steps:
        found[block.stage][block.start : block.stop] = block.moved(step)
    return found


def named_steps(steps: Iterable[tuple[Block, Tensor]]) -> dict[str, Tensor]:
    """Flat steps of blocks as new tensors under their parameters' global names."""
    return {name: piece.clone() for block, step in steps for name, piece in block.named(step).items()}


def cut_blocks(stages: Sequence[Stage], blocks: Literal["layer", "stage"], first_index: int = 0) -> list[list[Block]]:
    """The blocks of every stage, trainable ones numbered from `first_index`."""
    result = []
    index = first_index
    for stage in stages:
        groups = group_by_trainable(stage.layers) if blocks == "layer" else [list(range(len(stage.layers)))]
        own = []
        for group in groups or [[]]:
            trains = any(stage.layers[i].size for i in group)
            start, stop = (group[0], group[-1] + 1) if group else (0, 0)
            own.append(Block(stage, start, stop, index if trains else -1))
            index += trains
        result.append(own)
    return result
