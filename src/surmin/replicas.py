"""Data parallelism: what replicas of a network, each with its own share of the batch, agree on."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Replicas(Protocol):
    """This worker and those that hold the same stages for other shares of the batch.

    Shares are equally large, so a mean over replicas of means over their shares is the mean over the whole batch. Every
    replica makes the same calls in the same order and gets the same numbers, bit for bit.
    """

    def mean(self, values: Tensor) -> Tensor:
        """The mean over replicas of tensors of one shape."""

    def means(self, vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The means of several flat vectors, taken together."""

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum over replicas of tensors of one shape."""

    def own_seed(self, seed: int) -> int:
        """A seed for what every replica draws for its own samples; the first replica's is the seed itself."""


class OneReplica:
    """A single replica: the whole batch is here."""

    def mean(self, values: Tensor) -> Tensor:
        """Already means over the whole batch."""
        return values

    def means(self, vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Already means over the whole batch."""
        return vectors

    def largest(self, values: Tensor) -> Tensor:
        """Unchanged: there are no others."""
        return values

    def own_seed(self, seed: int) -> int:
        """The seed itself."""
        return seed


ONE_REPLICA = OneReplica()
