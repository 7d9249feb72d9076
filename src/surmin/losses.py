"""Convex losses ℓ of a network's output: value, gradient, smoothness constant and curvature factor.

Shapes. `outputs` is (n, *positions, classes) with any number of positions per sample (tokens, pixels), classes last.
A sample's loss is the mean over its positions, so that the mean over samples equals the mean over all positions.

Units. Everything here is *per sample*: row j of `gradient` is ∇ℓ_j, and Σ_c S_cj S_cjᵀ = ∇²ℓ_j. The factor 1/n of the
mean loss h = (1/n) Σ_j ℓ_j is applied where a sum over samples is taken, never here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor


@runtime_checkable
class ConvexLoss(Protocol):
    """What a loss offers. Implement it for a loss of your own (a `GradientOracle` needs less).

    All of it is called with gradients switched off: inside, `torch.enable_grad()` is needed to differentiate.
    """

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError, saying what is wrong, when targets do not fit outputs of this shape."""

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


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy with integer class labels, targets (n, *positions)."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Labels must be integers in 0..classes-1, one per position."""
        _check_outputs(outputs)
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise ValueError(f"cross-entropy needs integer class labels, got {targets.dtype}")
        if targets.shape != outputs.shape[:-1]:
            raise ValueError(
                f"labels of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(outputs.shape)}: "
                f"expected {tuple(outputs.shape[:-1])}"
            )
        lowest, highest, classes = int(targets.min()), int(targets.max()), outputs.shape[-1]
        if classes < 2:
            raise ValueError(f"cross-entropy needs at least two classes, the network has {classes} output")
        if lowest < 0 or highest >= classes:
            raise ValueError(
                f"labels run from {lowest} to {highest}, but the network has {classes} outputs (0 to {classes - 1})"
            )

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """log Σ exp z - z_y, mean over positions."""
        losses = F.cross_entropy(outputs.flatten(0, -2), targets.flatten().long(), reduction="none")
        return losses.view(len(outputs), -1).mean(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(p - e_y) / positions, with p_y - 1 as minus the sum of the others: exact to rounding as p_y nears 1."""
        labels = targets.long().unsqueeze(-1)
        gradient = outputs.softmax(-1).scatter_(-1, labels, 0.0)
        return gradient.scatter_(-1, labels, -gradient.sum(-1, keepdim=True)) / _positions(outputs)

    def smoothness(self, outputs: Tensor) -> float:
        """½ / positions: the largest eigenvalue of diag(p) - ppᵀ is at most ½ (¼ is the binary logistic constant)."""
        return 0.5 / _positions(outputs)

    def trace(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Σ p(1 - p), mean over positions; the likeliest class's 1 - p is the sum of the others: nothing cancels."""
        p = outputs.softmax(-1)
        largest = p.argmax(-1, keepdim=True)
        others = p.scatter(-1, largest, 0.0)
        trace = (others * (1 - others)).sum(-1) + p.gather(-1, largest).squeeze(-1) * others.sum(-1)
        return trace.view(len(outputs), -1).mean(1)

    def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Lower-triangular factor of diag(p) - ppᵀ in classes - 1 columns (Tanabe and Sagae 1992, Theorem 1)."""
        return _one_block_per_position(_multinomial_cholesky(outputs.softmax(-1)) / math.sqrt(_positions(outputs)))

    def sampled_factor(self, outputs: Tensor, targets: Tensor, rank: int, generator: torch.Generator) -> Tensor:
        """(p - e_ŷ) / √rank with labels ŷ ~ p drawn independently at every position."""
        p = outputs.softmax(-1)
        draws = torch.multinomial(p.flatten(0, -2), rank, replacement=True, generator=generator)
        labels = draws.t().reshape(rank, *outputs.shape[:-1], 1)
        columns = p.expand(rank, *p.shape).scatter_add(-1, labels, -torch.ones_like(labels, dtype=p.dtype))
        return columns / math.sqrt(rank * _positions(outputs))


@dataclass(frozen=True)
class SquaredError:
    """½‖z - y‖², summed over the last dimension; targets have the shape of the outputs."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Targets must be finite numbers of the outputs' shape."""
        _check_outputs(outputs)
        _check_real_targets(outputs, targets)

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """½‖z - y‖², mean over positions."""
        return 0.5 * (outputs - targets.to(outputs.dtype)).square().sum(-1).view(len(outputs), -1).mean(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(z - y) / positions."""
        return (outputs - targets.to(outputs.dtype)) / _positions(outputs)

    def smoothness(self, outputs: Tensor) -> float:
        """1 / positions."""
        return 1.0 / _positions(outputs)

    def trace(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The number of outputs, the same for every sample."""
        return outputs.new_full((len(outputs),), float(outputs.shape[-1]))

    def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The identity, one column per output."""
        return identity_factor(outputs, self.smoothness(outputs))

    def sampled_factor(self, outputs: Tensor, targets: Tensor, rank: int, generator: torch.Generator) -> Tensor:
        """Random signs: E[s sᵀ] = I."""
        return random_sign_factor(outputs, self.smoothness(outputs), rank, generator)


@dataclass(frozen=True)
class LogisticLoss:
    """Binary logistic loss log(1 + eᶻ) - y z, summed over the last dimension; targets in [0, 1], shaped as outputs."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Targets must lie between 0 and 1."""
        _check_outputs(outputs)
        _check_real_targets(outputs, targets)
        if targets.min() < 0 or targets.max() > 1:
            raise ValueError(
                f"logistic targets must lie in [0, 1], got {float(targets.min()):g} to {float(targets.max()):g}"
            )

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """log(1 + eᶻ) - y z, mean over positions."""
        losses = F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
        return losses.sum(-1).view(len(outputs), -1).mean(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(σ(z) - y) / positions."""
        return (outputs.sigmoid() - targets.to(outputs.dtype)) / _positions(outputs)

    def smoothness(self, outputs: Tensor) -> float:
        """¼ / positions."""
        return 0.25 / _positions(outputs)

    def trace(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Σ σ(1 - σ), mean over positions."""
        return _logistic_variance(outputs).sum(-1).view(len(outputs), -1).mean(1)

    def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """diag √(σ(1 - σ)), one column per output."""
        root = (_logistic_variance(outputs) / _positions(outputs)).sqrt()
        return _one_block_per_position(torch.diag_embed(root))

    def sampled_factor(self, outputs: Tensor, targets: Tensor, rank: int, generator: torch.Generator) -> Tensor:
        """σ - ŷ with labels ŷ ~ σ drawn independently for every output."""
        p = outputs.sigmoid().expand(rank, *outputs.shape)
        return (p - torch.bernoulli(p, generator=generator)) / math.sqrt(rank * _positions(outputs))


@dataclass(frozen=True)
class GradientOracle:
    """A loss known only through its gradient and a smoothness constant: all that Algorithm 1 asks for.

    `oracle(outputs, targets)` returns per-sample gradients of the shape of the outputs; `constant` is L, ∇²ℓ_j ⪯ L I.
    The loss has no value, so no step can be tested against it: use `adapt_damping=False`.
    """

    oracle: Callable[[Tensor, Tensor], Tensor]
    constant: float

    def __post_init__(self) -> None:
        """Raise ValueError for an oracle that cannot be called, or a constant that is not positive."""
        if not callable(self.oracle) or not 0 < self.constant < math.inf:
            raise ValueError(
                f"GradientOracle needs a function and a positive constant, got {self.oracle!r} and {self.constant!r}"
            )

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Only the number of samples is known to matter."""
        _check_outputs(outputs)
        if len(targets) != len(outputs):
            raise ValueError(f"{len(targets)} targets do not fit {len(outputs)} samples")

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Unknown: NaN for every sample."""
        return outputs.new_full((len(outputs),), math.nan)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the oracle says; raises ValueError when it has another shape than the outputs."""
        gradient = self.oracle(outputs, targets)
        if gradient.shape != outputs.shape:
            raise ValueError(
                f"the gradient oracle returned shape {tuple(gradient.shape)} "
                f"for outputs of shape {tuple(outputs.shape)}"
            )
        return gradient

    def smoothness(self, outputs: Tensor) -> float:
        """The constant given."""
        return self.constant

    def trace(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Unknown: the same for every sample."""
        return outputs.new_ones(len(outputs))

    def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """√L I: the bound stands in for the unknown Hessian."""
        return identity_factor(outputs, self.constant)

    def sampled_factor(self, outputs: Tensor, targets: Tensor, rank: int, generator: torch.Generator) -> Tensor:
        """Random signs times √L."""
        return random_sign_factor(outputs, self.constant, rank, generator)


def identity_factor(outputs: Tensor, constant: float) -> Tensor:
    """√L I as columns, shape (outputs per sample, n, *outputs)."""
    size = outputs[0].numel()
    columns = math.sqrt(constant) * torch.eye(size, dtype=outputs.dtype, device=outputs.device)
    return columns.view(size, 1, *outputs.shape[1:]).repeat(1, len(outputs), *[1] * (outputs.dim() - 1))


def random_sign_factor(outputs: Tensor, constant: float, rank: int, generator: torch.Generator) -> Tensor:
    """Columns of random signs whose mean outer product is L I, shape (rank, n, *outputs)."""
    signs = torch.empty(rank, *outputs.shape, dtype=outputs.dtype, device=outputs.device)
    return signs.bernoulli_(0.5, generator=generator).mul_(2).sub_(1) * math.sqrt(constant / rank)


def _multinomial_cholesky(p: Tensor) -> Tensor:
    """C with C Cᵀ = diag(p) - ppᵀ: probabilities (..., c) to (..., c, c - 1), without cancellation."""
    from_here = p.flip(-1).cumsum(-1).flip(-1)
    here, after = from_here[..., :-1], from_here[..., 1:]
    tiny = torch.finfo(p.dtype).tiny
    pivot = (p[..., :-1] * after / here.clamp_min(tiny)).sqrt()
    below = -p.unsqueeze(-1) / after.clamp_min(tiny).unsqueeze(-2)
    unit = below.tril(-1) + torch.eye(p.shape[-1], p.shape[-1] - 1, dtype=p.dtype, device=p.device)
    return unit * pivot.unsqueeze(-2)


def _logistic_variance(outputs: Tensor) -> Tensor:
    """σ(1 - σ), exact to rounding at both ends: 1 - σ(z) = σ(-z)."""
    return outputs.sigmoid() * (-outputs).sigmoid()


def _one_block_per_position(blocks: Tensor) -> Tensor:
    """Factors (n, *positions, c, k) as columns (positions · k, n, *positions, c) that touch one position each."""
    n, *positions, c, k = blocks.shape
    if not positions:
        return blocks.permute(2, 0, 1).contiguous()
    flat = blocks.reshape(n, -1, c, k)
    count = flat.shape[1]
    columns = flat.new_zeros(count, k, n, count, c)
    at = torch.arange(count, device=flat.device)
    columns[at, :, :, at] = flat.permute(1, 3, 0, 2)
    return columns.view(count * k, n, *positions, c)


def _positions(outputs: Tensor) -> int:
    return math.prod(outputs.shape[1:-1])


def _check_outputs(outputs: Tensor) -> None:
    if outputs.dim() < 2:
        raise ValueError(f"the network's outputs must have shape (n, ..., classes), got {tuple(outputs.shape)}")


def _check_real_targets(outputs: Tensor, targets: Tensor) -> None:
    if targets.shape != outputs.shape:
        raise ValueError(f"targets of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(outputs.shape)}")
    if targets.is_complex():
        raise ValueError(f"targets must be real numbers, got {targets.dtype}")
    if not torch.isfinite(targets).all():
        raise ValueError("targets contain NaN or infinite values")
