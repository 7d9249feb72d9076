"""Kronecker-factored preconditioner for linear and convolution layers, biases included.

Legend: C mean outer product of a layer's inputs (with a 1 appended for the bias), Ĝ that of the columns at its output,
π = √(mean diag C / mean diag κĜ), λ the damping, κ the inflation. For a weight matrix V (out, in + 1):
P V = (κĜ + √λ/π I) V (C + π√λ I).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.curvature.moments import MeanDiagonal, Moments
from surmin.solvers.conjugate_gradient import ConjugateGradient
from surmin.solvers.result import SolverResult
from surmin.stages.tape import joined
from surmin.surrogates.local_loss import LocalLoss
from surmin.work import WorkMeter

FEW = 2
"""A factor with more rows than this per vector is solved by its Cholesky factor, not inverted."""


@dataclass(frozen=True)
class KroneckerConjugateGradient:
    """Conjugate gradient with at most `steps` products, preconditioned at the local loss's own κ and λ.

    The work counted is the same for everything of one kind.
    """

    steps: int
    moments: Sequence[Moments]
    work: WorkMeter
    kind: tuple[Hashable, ...]

    def solve(self, loss: LocalLoss) -> SolverResult:
        """Minimise the local loss from d = 0."""
        with self.work.phase(("invert", *self.kind)):
            preconditioner = KroneckerPreconditioner(self.moments, loss.inflation, loss.damping)
        counted = self.work.counted(("precondition", *self.kind), preconditioner)
        return ConjugateGradient(self.steps, preconditioner=counted).solve(loss)


class KroneckerPreconditioner:
    """v ↦ P⁻¹ v for a block of one or several layers."""

    def __init__(self, moments: Sequence[Moments], inflation: float, damping: float) -> None:
        self.inverses = [_factorize(moment, inflation, damping) for moment in moments]
        self.sizes = [inverse.size for inverse in self.inverses]

    def __call__(self, vector: Tensor) -> Tensor:
        """P⁻¹ v, layer by layer."""
        pieces = vector.split(self.sizes)
        return joined([inverse(piece) for inverse, piece in zip(self.inverses, pieces, strict=True)])


@dataclass(frozen=True)
class _KroneckerInverse:
    inputs: "_Side"
    outputs: "_Side"
    bias: bool

    @property
    def size(self) -> int:
        return self.inputs.size * self.outputs.size

    def __call__(self, vector: Tensor) -> Tensor:
        rows, columns = self.outputs.size, self.inputs.size
        if not self.bias:
            return self._solve(vector.view(rows, columns)).reshape(-1)
        weight, bias = vector[: rows * (columns - 1)].view(rows, -1), vector[rows * (columns - 1) :]
        solved = self._solve(torch.cat([weight, bias.unsqueeze(1)], dim=1))
        return torch.cat([solved[:, :-1].reshape(-1), solved[:, -1]])

    def _solve(self, weight: Tensor) -> Tensor:
        return self.outputs.solve(self.inputs.solve(weight.t()).t())


@dataclass(frozen=True)
class _Side:
    """One factor of the Kronecker product: its inverse or, if few vectors come at a time, its Cholesky factor."""

    matrix: Tensor
    is_inverse: bool

    @classmethod
    def of(cls, matrix: Tensor, vectors: int) -> "_Side":
        """From its diagonal alone if rounding has left the matrix not positive definite."""
        factor, failed = torch.linalg.cholesky_ex(matrix)
        factor.mul_(failed == 0).diagonal().add_(matrix.diagonal().sqrt() * (failed > 0))
        if FEW * vectors < len(matrix):
            return cls(factor, is_inverse=False)
        return cls(torch.cholesky_inverse(factor), is_inverse=True)

    @property
    def size(self) -> int:
        return len(self.matrix)

    def solve(self, right: Tensor) -> Tensor:
        return self.matrix @ right if self.is_inverse else torch.cholesky_solve(right, self.matrix)


@dataclass(frozen=True)
class _ScaledIdentity:
    scale: Tensor
    size: int

    def __call__(self, vector: Tensor) -> Tensor:
        return vector * self.scale


def _factorize(moment: Moments, inflation: float, damping: float) -> _KroneckerInverse | _ScaledIdentity:
    if isinstance(moment, MeanDiagonal):
        tiny = torch.finfo(moment.mean.dtype).tiny
        return _ScaledIdentity(1 / (inflation * moment.mean + damping).clamp_min(tiny), moment.size)
    numbers = torch.finfo(moment.inputs.dtype)
    outputs = inflation * moment.outputs
    mean_in, mean_out = moment.inputs.diagonal().mean(), outputs.diagonal().mean()
    pi = (mean_in.clamp_min(numbers.tiny) / mean_out.clamp_min(numbers.tiny)).clamp_max(numbers.max).sqrt()
    root = math.sqrt(damping)
    return _KroneckerInverse(
        _Side.of(_damped(moment.inputs, pi * root, mean_in), len(outputs)),
        _Side.of(_damped(outputs, root / pi, mean_out), len(moment.inputs)),
        moment.bias,
    )


def _damped(matrix: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """M + shift I, with at least a rounding's worth of shift so that a singular M cannot fail."""
    eps = torch.finfo(matrix.dtype).eps
    floor = 10 * len(matrix) * eps * scale + torch.finfo(matrix.dtype).tiny
    return matrix + torch.maximum(shift, floor) * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
