"""Small dense problems for the solvers."""

import torch
from torch import Tensor

from surmin.surrogates.local_loss import LocalLoss


def spectrum_problem(
    spectrum: list[float], seed: int = 0, *, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """A random symmetric matrix of the given eigenvalues, and a random gradient."""
    generator = torch.Generator().manual_seed(seed)
    size = len(spectrum)
    vectors, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    matrix = vectors @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ vectors.t()
    gradient = torch.randn(size, generator=generator, dtype=torch.float64)
    return (0.5 * (matrix + matrix.t())).to(dtype), gradient.to(dtype)


def quadratic(matrix: Tensor, gradient: Tensor, **options: float) -> LocalLoss:
    """The local loss with this matrix as its curvature."""
    return LocalLoss(gradient, lambda v: matrix @ v, **options)


def undamped_value(
    matrix: Tensor, gradient: Tensor, step: Tensor, inflation: float = 1.0, cubic: float = 0.0
) -> Tensor:
    """⟨g, d⟩ + (κ/2) dᵀ G d + (2ρ/3)‖d‖³, written out."""
    return gradient @ step + inflation / 2 * step @ matrix @ step + 2 * cubic / 3 * step.norm() ** 3
