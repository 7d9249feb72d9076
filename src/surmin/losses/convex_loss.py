"""The protocol of a loss; shapes and units are those of the package."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class ConvexLoss(Protocol):
    """What a loss offers. Implement it for your own loss (a `GradientOracle` needs less).

    All members are called with gradients switched off: to differentiate inside, use `torch.enable_grad()`.
    """

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError, saying what is wrong, if targets do not fit outputs of this shape."""

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, shape (n,)."""

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Per-sample gradients ∇ℓ_j, shape of outputs."""

    def smoothness(self, outputs: Tensor) -> float:
        """A constant L with ∇²ℓ_j ⪯ L I for every sample."""

    def trace(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Tr ∇²ℓ_j of each sample, shape (n,): how curved the loss is there (any positive multiple will do)."""

    def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Columns S with S Sᵀ = ∇²ℓ_j exactly, shape (columns, n, *positions, classes)."""

    def sampled_factor(self, outputs: Tensor, targets: Tensor, rank: int, generator: torch.Generator) -> Tensor:
        """`rank` random columns S with E[S Sᵀ] = ∇²ℓ_j, shape (rank, n, *positions, classes)."""
