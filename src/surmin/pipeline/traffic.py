"""Counting what crosses between stages."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Traffic:
    """Cumulative counts. A message is what a stage sends to a neighbour for one micro-batch, however many tensors."""

    messages: int = 0
    bytes: int = 0
    forward_waves: int = 0

    def send(self, tensors: Iterable[Tensor]) -> None:
        """Count one message."""
        self.messages += 1
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def all_reduce(self, numbers: int, stages: int) -> None:
        """Count a sum of 8-byte numbers over all stages: up the pipe to the last stage and back down."""
        self.messages += 2 * (stages - 1)
        self.bytes += 2 * (stages - 1) * 8 * numbers

    def copy(self) -> "Traffic":
        """The counts so far, to take differences from."""
        return Traffic(self.messages, self.bytes, self.forward_waves)
