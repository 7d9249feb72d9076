"""What every output curvature offers to the curvature wave (DESIGN: wave 3)."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from surmin.losses import ConvexLoss
from surmin.stages.block import Block
from surmin.stages.stage import Tape

Message = tuple[Tensor, ...]
"""What goes down the pipe for one micro-batch."""


class BlockCurvature(Protocol):
    """The curvature of one block's local loss before decoupling's inflation, in units of the mean loss."""

    def product(self, direction: Tensor) -> Tensor:
        """Curvature times a flat vector (P,)."""


class OutputCurvature(Protocol):
    """Starts at the loss and comes down through the blocks, leaving each block its curvature."""

    needs_cotangents: bool
    """Whether the gradient wave must keep the gradient at every block's boundary."""
    decoupled: bool
    """Whether the blocks' curvatures are decoupled already (δ), so that κ = 1."""

    def top(self, loss: ConvexLoss, outputs: Sequence[Tensor], targets: Sequence[Tensor], seed: int) -> list[Message]:
        """The curvature of the loss at the network's outputs, one message per micro-batch."""

    def descend(
        self, block: Block, tapes: Sequence[Tape], messages: Sequence[Message], seed: int
    ) -> tuple[BlockCurvature, list[Message]]:
        """The block's curvature, and the messages for the block below (empty below the first trainable block)."""


def draw_seed(*numbers: int) -> int:
    """One seed out of several small numbers (user's seed, round, block), the same on every rank."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63)
    return seed
