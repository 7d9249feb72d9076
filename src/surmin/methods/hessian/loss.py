"""Products with the Hessian of the loss in the network's output, for several columns at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp

from surmin.losses import ConvexLoss, CrossEntropy, LogisticLoss, SquaredError

MAX_FACTOR_COLUMNS = 64
"""Outputs per sample up to which the loss's own factor S is used: a few small products, and S is kept."""
DIFFERENTIABLE: tuple[type[ConvexLoss], ...] = (CrossEntropy, LogisticLoss, SquaredError)
"""Losses whose `gradient` torch can differentiate; it is not known what others' does."""


@torch.no_grad()
def loss_hessian(loss: ConvexLoss, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """ż ↦ ∇²ℓ_j ż_j for every sample, as a function of columns (c, n, *out): by S Sᵀ, in forward mode if S is large.

    Args:
        loss: its gradient is differentiated, sample by sample, if the factor is not used.
        outputs: (n, *out).
        targets: of the same samples.
    """
    if outputs[0].numel() > MAX_FACTOR_COLUMNS and type(loss) in DIFFERENTIABLE:
        return lambda tangents: _forward_mode(loss, outputs, targets, tangents)
    factor = loss.factor(outputs, targets).flatten(2).movedim(0, 1).contiguous()

    def product(tangents: Tensor) -> Tensor:
        by_sample = tangents.flatten(2).transpose(0, 1)
        return (by_sample @ factor.mT @ factor).transpose(0, 1).reshape(tangents.shape)

    return product


def _forward_mode(loss: ConvexLoss, outputs: Tensor, targets: Tensor, tangents: Tensor) -> Tensor:
    """All columns in one pass over copies of the samples."""
    many, labels = (values.repeat(len(tangents), *[1] * (values.dim() - 1)) for values in (outputs, targets))
    change: Tensor = jvp(lambda values: loss.gradient(values, labels), (many,), (tangents.flatten(0, 1),))[1]
    return change.view(tangents.shape)
