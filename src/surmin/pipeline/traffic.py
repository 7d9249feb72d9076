"""Counting what crosses between workers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Traffic:
    """Cumulative counts of what a worker sent; in one process, of what all would have sent.

    A message is what goes to another worker at once, in however many tensors. Not counted: what workers tell each other
    before a step (1,024 bytes to every other one), the header of a channel's first message (328 bytes), and the sample
    that is run to learn shapes.
    """

    messages: int = 0
    bytes: int = 0
    forward_waves: int = 0

    def send(self, tensors: Iterable[Tensor]) -> None:
        """Count one message."""
        self.messages += 1
        self.bytes += sum(tensor.nbytes for tensor in tensors)

    def copy(self) -> "Traffic":
        """The counts so far, to take differences from."""
        return Traffic(self.messages, self.bytes, self.forward_waves)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is sent inside is not counted."""
        before = self.copy()
        try:
            yield
        finally:
            self.messages, self.bytes, self.forward_waves = before.messages, before.bytes, before.forward_waves
