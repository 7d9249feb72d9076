"""Kronecker-factored preconditioner for linear and convolution layers, biases included (DESIGN 2.3).

Legend: C mean outer product of a layer's inputs (with a 1 appended for the bias), Ĝ that of the columns at its output,
π = √(mean diag C / mean diag κĜ), λ the damping, κ the inflation. For a weight matrix V (out, in + 1):
P V = (κĜ + √λ/π I) V (C + π√λ I).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.curvature.moments import MeanDiagonal, Moments


class KroneckerPreconditioner:
    """v ↦ P⁻¹ v for a block of one or several layers."""

    def __init__(self, moments: Sequence[Moments], inflation: float, damping: float) -> None:
        self.inverses = [_invert(moment, inflation, damping) for moment in moments]
        self.sizes = [inverse.size for inverse in self.inverses]

    def __call__(self, vector: Tensor) -> Tensor:
        """P⁻¹ v, layer by layer."""
        pieces = vector.split(self.sizes)
        return torch.cat([inverse(piece) for inverse, piece in zip(self.inverses, pieces, strict=True)])


@dataclass(frozen=True)
class _KroneckerInverse:
    inputs: Tensor
    outputs: Tensor
    bias: bool

    @property
    def size(self) -> int:
        return len(self.inputs) * len(self.outputs)

    def __call__(self, vector: Tensor) -> Tensor:
        rows, columns = len(self.outputs), len(self.inputs)
        if not self.bias:
            return (self.outputs @ vector.view(rows, columns) @ self.inputs).reshape(-1)
        weight, bias = vector[: rows * (columns - 1)].view(rows, -1), vector[rows * (columns - 1) :]
        solved = self.outputs @ torch.cat([weight, bias.unsqueeze(1)], dim=1) @ self.inputs
        return torch.cat([solved[:, :-1].reshape(-1), solved[:, -1]])


@dataclass(frozen=True)
class _ScaledIdentity:
    scale: Tensor
    size: int

    def __call__(self, vector: Tensor) -> Tensor:
        return vector * self.scale


def _invert(moment: Moments, inflation: float, damping: float) -> _KroneckerInverse | _ScaledIdentity:
    if isinstance(moment, MeanDiagonal):
        tiny = torch.finfo(moment.mean.dtype).tiny
        return _ScaledIdentity(1 / (inflation * moment.mean + damping).clamp_min(tiny), moment.size)
    tiny = torch.finfo(moment.inputs.dtype).tiny
    outputs = inflation * moment.outputs
    mean_in, mean_out = moment.inputs.diagonal().mean(), outputs.diagonal().mean()
    pi = (mean_in.clamp_min(tiny) / mean_out.clamp_min(tiny)).sqrt()
    root = math.sqrt(damping)
    return _KroneckerInverse(
        _damped_inverse(moment.inputs, pi * root, mean_in),
        _damped_inverse(outputs, root / pi, mean_out),
        moment.bias,
    )


def _damped_inverse(matrix: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(M + shift I)⁻¹ by Cholesky, with at least a rounding's worth of shift so that a singular M cannot fail."""
    eps = torch.finfo(matrix.dtype).eps
    floor = 10 * len(matrix) * eps * scale + torch.finfo(matrix.dtype).tiny
    damped = matrix + torch.maximum(shift, floor) * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, _ = torch.linalg.cholesky_ex(damped)
    return torch.cholesky_inverse(factor)
