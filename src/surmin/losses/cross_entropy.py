"""Softmax cross-entropy."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from surmin.losses.columns import one_block_per_position
from surmin.losses.outputs import check_outputs, positions

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""torch can do little with the others."""
LANES = 16
"""Float32 numbers in a CPU's widest vector: for fewer classes, torch's softmax goes number by number."""


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy with integer class labels, targets (n, *positions).

    Attributes:
        ignore_index: label of positions that do not count, such as padding: their loss, gradient and curvature are
            zero. A sample's loss stays the mean over all of its positions, so a batch's loss is torch's
            `F.cross_entropy` times the fraction of its positions that count.
    """

    ignore_index: int | None = None

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError unless labels are integers in 0..classes-1, one per position."""
        check_outputs(outputs)
        if targets.dtype not in INTEGERS:
            raise ValueError(f"cross-entropy needs integer class labels, int64 for instance, got {targets.dtype}")
        if targets.shape != outputs.shape[:-1]:
            first = outputs.dim() > 2 and targets.shape == outputs.shape[:1] + outputs.shape[2:]
            hint = "; classes come last: end the network's forward with .movedim(1, -1)" if first else ""
            raise ValueError(
                f"labels of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(outputs.shape)}: "
                f"expected {tuple(outputs.shape[:-1])}{hint}"
            )
        classes = outputs.shape[-1]
        if classes < 2:
            raise ValueError(f"cross-entropy needs at least two classes, the network has {classes} output")
        labels = self._labels(targets)
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= classes:
            padded = lowest < 0 and self.ignore_index is None
            hint = f"; if {lowest} is padding, say CrossEntropy(ignore_index={lowest})" if padded else ""
            raise ValueError(
                f"labels run from {lowest} to {highest}, but the network has {classes} outputs "
                f"(0 to {classes - 1}){hint}"
            )

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """log Σ exp z - z_y, mean over positions; for a likely label -log(1 - Σ of the others' p): nothing cancels."""
        labels = self._labels(targets)
        logs = _padded(outputs).log_softmax(-1)[..., : outputs.shape[-1]].contiguous()  # exp is slow where it gives 0
        others = logs.exp().scatter(-1, labels, 0.0).sum(-1, keepdim=True)
        losses = torch.where(others < 0.5, -torch.log1p(-others.clamp_max(0.5)), -logs.gather(-1, labels))
        return self._counting(losses, targets).view(len(outputs), -1).mean(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(p - e_y) / positions, with p_y - 1 as minus the sum of the others: exact to rounding as p_y nears 1."""
        labels = self._labels(targets)
        gradient = _softmax(outputs).scatter_(-1, labels, 0.0)
        gradient = gradient.scatter_(-1, labels, -gradient.sum(-1, keepdim=True))
        return self._counting(gradient, targets) / positions(outputs)

    def smoothness(self, outputs: Tensor) -> float:
        """½ / positions: the largest eigenvalue of diag(p) - ppᵀ is at most ½ (¼ is the binary logistic constant)."""
        return 0.5 / positions(outputs)

    def trace(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Σ p(1 - p), mean over positions; the likeliest class's 1 - p is the sum of the others: nothing cancels."""
        p = _softmax(outputs)
        largest = p.argmax(-1, keepdim=True)
        others = p.scatter(-1, largest, 0.0)
        trace = (others * (1 - others)).sum(-1, keepdim=True) + p.gather(-1, largest) * others.sum(-1, keepdim=True)
        return self._counting(trace, targets).view(len(outputs), -1).mean(1)

    def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Lower-triangular factor of diag(p) - ppᵀ in classes - 1 columns (Tanabe and Sagae 1992, Theorem 1)."""
        columns = _multinomial_cholesky(_softmax(outputs)).div_(math.sqrt(positions(outputs)))
        return one_block_per_position(self._counting(columns, targets))

    def sampled_factor(self, outputs: Tensor, targets: Tensor, rank: int, generator: torch.Generator) -> Tensor:
        """(p - e_ŷ) / √rank with labels ŷ ~ p drawn independently at every position."""
        p = _softmax(outputs)
        drawable = torch.where(p.isfinite(), p, 1.0)  # torch raises for any other; they show in the columns
        draws = torch.multinomial(drawable.flatten(0, -2), rank, replacement=True, generator=generator)
        labels = draws.t().reshape(rank, *outputs.shape[:-1], 1)
        columns = p.expand(rank, *p.shape).scatter_add(-1, labels, -torch.ones_like(labels, dtype=p.dtype))
        return self._counting(columns, targets) / math.sqrt(rank * positions(outputs))

    def _labels(self, targets: Tensor) -> Tensor:
        """Classes (n, *positions, 1); any class if a position does not count."""
        labels = targets.long().unsqueeze(-1)
        return labels if self.ignore_index is None else labels.masked_fill(labels == self.ignore_index, 0)

    def _counting(self, values: Tensor, targets: Tensor) -> Tensor:
        """Values (..., n, *positions, any), zero for positions that do not count."""
        if self.ignore_index is None:
            return values
        return values.masked_fill((targets.long() == self.ignore_index).unsqueeze(-1), 0.0)


def _softmax(outputs: Tensor) -> Tensor:
    """Probabilities of the classes, the last axis."""
    return _padded(outputs).softmax(-1)[..., : outputs.shape[-1]].contiguous()


def _padded(outputs: Tensor) -> Tensor:
    """With classes of probability zero up to a full vector, if that makes a softmax faster."""
    missing = LANES - outputs.shape[-1]
    if missing <= 0 or outputs.is_cuda or outputs.dtype != torch.float32:
        return outputs
    return F.pad(outputs, (0, missing), value=-math.inf)


def _multinomial_cholesky(p: Tensor) -> Tensor:
    """C with C Cᵀ = diag(p) - ppᵀ: probabilities (..., c) to columns (c - 1, ..., c), without cancellation."""
    from_here = p.flip(-1).cumsum(-1).flip(-1)
    here, after = from_here[..., :-1], from_here[..., 1:]
    tiny = torch.finfo(p.dtype).tiny
    product, here = p[..., :-1] * after, here.clamp_min(tiny)
    pivot = torch.where(product < tiny, p[..., :-1] * (after / here), product / here).sqrt()  # it may underflow
    columns = p.new_empty(p.shape[-1] - 1, *p.shape)
    torch.div(-p, after.clamp_min(tiny).movedim(-1, 0).unsqueeze(-1), out=columns)
    above = torch.ones(len(columns), p.shape[-1], dtype=torch.bool, device=p.device).tril_()  # and on the diagonal
    columns.movedim(0, -2).masked_fill_(above, 0.0)
    columns.diagonal(dim1=0, dim2=-1).fill_(1.0)
    return columns.mul_(pivot.movedim(-1, 0).unsqueeze(-1))
