"""The curvature wave inside one worker: from stage to stage and block to block."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from surmin.curvature.output_curvature import BlockCurvature, Message, OutputCurvature
from surmin.pipeline.wave import BlockExpansion, Wave
from surmin.seeds import draw_seed
from surmin.stages.block import Block
from surmin.stages.stage import Stage
from surmin.stages.tape import Tape


class CurvatureWave:
    """The curvature's way down through the stages of one worker, as its messages arrive.

    Args:
        wave: after the gradient wave.
        blocks: of every stage here.
        curvature: what goes down.
        seed: of the round.
        cross: turns a message that leaves the stage at a position into what arrives at the stage below.
        watched: a context for the work on a message, by its number, with a key shared by equal work.
    """

    def __init__(
        self, wave: Wave, blocks: Sequence[Sequence[Block]], curvature: OutputCurvature, seed: int,
        cross: Callable[[Message, int], Message], watched: Callable[[int, Hashable], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        self.wave = wave
        self.blocks = blocks
        self.curvature = curvature
        self.seed = seed
        self._cross = cross
        self._watched = watched
        self._parts: dict[Block, list[BlockCurvature]] = {}
        self._messages: dict[Block, list[Message]] = {}

    def through_all(self, messages: Iterable[Message]) -> Iterable[Message]:
        """What leaves the first stage here, message by message; nothing below the first trainable block."""
        for position in reversed(range(len(self.blocks))):
            messages = self._through(position, messages)
            if any(block.index == 0 for block in self.blocks[position]):
                break
        return messages

    def found(self, gradients: Mapping[Stage, list[Tensor]]) -> list[BlockExpansion]:
        """Every trainable block with its share."""
        work = self.wave.shape, repr(self.curvature)
        return [
            BlockExpansion(
                block,
                torch.cat(gradients[block.stage][block.start : block.stop]),
                self.curvature.join(self._parts.pop(block)),
                self.wave.tapes[position],
                self._messages[block],
                (*work, block.names),
            )
            for position, own in enumerate(self.blocks)
            for block in own
            if block.size
        ]

    def _through(self, position: int, messages: Iterable[Message]) -> Iterator[Message]:
        arrivals = self.curvature.arrivals(self.wave.tapes[position], messages)
        for number, (tapes, group) in enumerate(arrivals):
            for message in self._through_blocks(position, tapes, group, number):
                yield self._cross(message, position)

    def _through_blocks(
        self, position: int, tapes: Sequence[Tape], group: Sequence[Message], number: int
    ) -> Sequence[Message]:
        samples = self.wave.shape[0]
        blocks = tuple(block.names for block in self.blocks[position])
        key = ("curvature", self.wave.shape, repr(self.curvature), blocks, number)
        with self._watched(number, key):
            for block in reversed(self.blocks[position]):
                seed = draw_seed(self.seed, block.index)
                own, below = self.curvature.descend(block, tapes, group, samples, seed)
                if block.size:
                    self._parts.setdefault(block, []).append(own)
                    self._messages.setdefault(block, []).extend(group)
                if block.index == 0:
                    return []
                group = below
        return group
