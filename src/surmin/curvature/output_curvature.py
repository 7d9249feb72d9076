"""What every output curvature offers to the curvature wave (wave 3)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from surmin.losses import ConvexLoss
from surmin.stages.block import Block
from surmin.stages.tape import Tape

Message = tuple[Tensor, ...]
"""What goes down the pipe at once, a part of the batch's curvature."""


class BlockCurvature(Protocol):
    """The curvature of one block's local loss before decoupling's inflation, in units of the mean loss."""

    def record(self) -> None:
        """Prepare all that products share, so that the first takes no more work than the others."""

    def product(self, direction: Tensor) -> Tensor:
        """Curvature times a flat vector (P,)."""


class OutputCurvature(Protocol):
    """Starts at the loss and comes down through the blocks, leaving each block its curvature."""

    needs_cotangents: bool
    """Whether the gradient wave must keep the gradient at every block's boundary."""

    def outputs_error(self, outputs: Tensor) -> ValueError | None:
        """What keeps it from starting at network outputs like these."""

    def message_sizes(self, samples: int, microbatches: int) -> list[int]:
        """The number of samples in each message that a batch's curvature comes in."""

    def top(self, loss: ConvexLoss, outputs: Sequence[Tensor], targets: Sequence[Tensor], seed: int) -> list[Message]:
        """The curvature of the loss at the network's outputs, given and returned in parts."""

    def arrivals(
        self, tapes: Sequence[Tape], messages: Iterable[Message]
    ) -> Iterator[tuple[Sequence[Tape], Sequence[Message]]]:
        """The messages in the groups that go through a stage together, with the tapes that each group needs."""

    def descend(
        self, block: Block, tapes: Sequence[Tape], messages: Sequence[Message], samples: int, seed: int
    ) -> tuple[Any, list[Message]]:
        """The block's curvature by these messages, and the messages for the block below.

        Args:
            block: the block.
            tapes: of its stage, as named by `arrivals`.
            messages: at its output, a group of `arrivals`.
            samples: in the whole batch.
            seed: of the block.
        """

    def pack(self, message: Message) -> Message:
        """What of a message is sent to another worker."""

    def unpack(self, packed: Message) -> Message:
        """The message from what arrives there."""

    def join(self, parts: Sequence[Any]) -> BlockCurvature:
        """The block's curvature from what its groups left."""
