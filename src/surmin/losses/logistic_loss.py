"""The binary logistic loss."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from surmin.losses.columns import one_block_per_position
from surmin.losses.outputs import check_outputs, check_real_targets, positions


@dataclass(frozen=True)
class LogisticLoss:
    """Binary logistic loss log(1 + eᶻ) - y z, summed over the last dimension; targets in [0, 1], shaped as outputs."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError unless targets lie between 0 and 1."""
        check_outputs(outputs)
        check_real_targets(outputs, targets)
        if targets.min() < 0 or targets.max() > 1:
            raise ValueError(
                f"logistic targets must lie in [0, 1], got {float(targets.min()):g} to {float(targets.max()):g}"
            )

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """log(1 + eᶻ) - y z as y log(1 + e⁻ᶻ) + (1 - y) log(1 + eᶻ), where nothing cancels; mean over positions."""
        labels = targets.to(outputs.dtype)
        losses = -(labels * F.logsigmoid(outputs) + (1 - labels) * F.logsigmoid(-outputs))
        return losses.sum(-1).view(len(outputs), -1).mean(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """σ(z) - y as (1 - y) σ(z) - y σ(-z), where nothing cancels, / positions."""
        labels = targets.to(outputs.dtype)
        return ((1 - labels) * outputs.sigmoid() - labels * (-outputs).sigmoid()) / positions(outputs)

    def smoothness(self, outputs: Tensor) -> float:
        """¼ / positions."""
        return 0.25 / positions(outputs)

    def trace(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Σ σ(1 - σ), mean over positions."""
        return _logistic_variance(outputs).sum(-1).view(len(outputs), -1).mean(1)

    def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """diag √(σ(1 - σ)), one column per output."""
        root = (_logistic_variance(outputs) / positions(outputs)).sqrt()
        return one_block_per_position(torch.diag_embed(root, dim1=0, dim2=-1))

    def sampled_factor(self, outputs: Tensor, targets: Tensor, rank: int, generator: torch.Generator) -> Tensor:
        """σ - ŷ with labels ŷ ~ σ drawn independently for every output."""
        p = outputs.sigmoid().expand(rank, *outputs.shape)
        return (p - torch.bernoulli(p.nan_to_num(), generator=generator)) / math.sqrt(rank * positions(outputs))


def _logistic_variance(outputs: Tensor) -> Tensor:
    """σ(1 - σ), exact to rounding at both ends: 1 - σ(z) = σ(-z)."""
    return outputs.sigmoid() * (-outputs).sigmoid()
