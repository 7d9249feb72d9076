"""Cubic-regularised local losses: gradient descent (Carmon and Duchi 2019) and a Krylov method (Cartis et al. 2011).

Legend: A = κ G + λ I, which may be indefinite; L(d) = ⟨g, d⟩ + ½ dᵀ A d + (2ρ/3)‖d‖³; V a Lanczos basis, T = Vᵀ A V.
At the global minimiser (A + 2ρ‖d‖ I) d = -g with A + 2ρ‖d‖ I ⪰ 0 (Nesterov and Polyak 2006). ρ̃ = 2ρ is Carmon and
Duchi's constant (`rho` below), β = ‖A‖, R a bound on the minimiser's norm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.scaling import norms
from surmin.solvers.result import Reason, SolverResult, finish, undamped_decrease
from surmin.surrogates.local_loss import LocalLoss

BISECTIONS = 100
POWER_STEPS = 10
"""Products spent on ‖A‖."""


@dataclass(frozen=True)
class CubicGradientDescent:
    """Gradient descent from the Cauchy point with the step size of Carmon and Duchi, 1 / (4 (β + ρ̃ R))."""

    steps: int

    def solve(self, loss: LocalLoss) -> SolverResult:
        """N steps; β = ‖A‖ is estimated by power iteration, and R bounds the norm of the minimiser."""
        gradient = loss.gradient
        norm = norms(gradient)
        beta = self._largest(loss)
        rho = 2 * loss.cubic
        radius = _cauchy_bound(beta, norm, rho)
        step_size = 1 / (4 * (beta + rho * radius)).clamp_min(torch.finfo(gradient.dtype).tiny)
        unit = gradient / norm.clamp_min(torch.finfo(gradient.dtype).tiny)
        image_of_unit = loss.product(unit)
        length = _line_minimiser(norm, unit.dot(image_of_unit), rho)
        step, image = -length * unit, -length * image_of_unit
        for _ in range(self.steps):
            step = step - step_size * loss.gradient_at(step, image)
            image = loss.product(step)
        return finish(step, undamped_decrease(loss, step, image))

    def _largest(self, loss: LocalLoss) -> Tensor:
        """‖A‖, from below; the factor 1.5 covers the estimate."""
        vector = loss.gradient
        size = norms(vector)
        for _ in range(POWER_STEPS):
            vector = loss.product(vector / size.clamp_min(torch.finfo(vector.dtype).tiny))
            size = norms(vector)
        return 1.5 * size


@dataclass(frozen=True)
class CubicKrylov:
    """Minimise L exactly in the Krylov space of `steps` products: Lanczos basis, then the secular equation."""

    steps: int

    def solve(self, loss: LocalLoss) -> SolverResult:
        """Full reorthogonalization; ρ = 0 needs a positive definite A on the space, else the reason says otherwise."""
        basis, tridiagonal = self._lanczos(loss)
        norm = norms(loss.gradient)
        right = torch.zeros(len(basis), dtype=norm.dtype, device=norm.device)
        right[0] = norm
        coefficients, code = solve_cubic_dense(tridiagonal, right, loss.cubic)
        step = coefficients @ basis
        quadratic = 0.5 * (coefficients @ tridiagonal @ coefficients - loss.damping * coefficients.square().sum())
        decrease = -(right @ coefficients + quadratic + 2 * loss.cubic / 3 * coefficients.norm() ** 3)
        return SolverResult(step, decrease, code)

    def _lanczos(self, loss: LocalLoss) -> tuple[Tensor, Tensor]:
        """Rows of V, and T. A space exhausted early leaves zero rows, which change nothing."""
        gradient = loss.gradient
        count = min(self.steps, len(gradient))
        tiny = torch.finfo(gradient.dtype).tiny
        basis = gradient.new_zeros(count, len(gradient))
        projected = gradient.new_zeros(count, count)
        norm = norms(gradient)
        basis[0] = gradient / norm.clamp_min(tiny)
        scale = torch.zeros_like(norm)
        for index in range(count):
            image = loss.product(basis[index])
            row = basis @ image
            projected[index, : index + 1] = row[: index + 1]
            projected[: index + 1, index] = row[: index + 1]
            scale = torch.maximum(scale, norms(image))
            for _ in range(2):
                image = image - (basis @ image) @ basis
            if index + 1 < count:
                rest = norms(image)
                exhausted = rest <= 100 * torch.finfo(gradient.dtype).eps * scale
                basis[index + 1] = torch.where(exhausted, torch.zeros_like(image), image / rest.clamp_min(tiny))
        return basis, projected


def solve_cubic_dense(matrix: Tensor, gradient: Tensor, cubic: float) -> tuple[Tensor, Tensor]:
    """Global minimiser of ⟨g, y⟩ + ½ yᵀ A y + (2ρ/3)‖y‖³ for a small dense symmetric A, all on the device.

    Returns:
        y, and a `Reason` code. Without a cubic term A must be positive definite where g is not zero, else y is zero.
    """
    finite = torch.isfinite(matrix).all() & torch.isfinite(gradient).all()
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, torch.zeros_like(matrix)))
    projected = vectors.t() @ torch.where(finite, gradient, torch.zeros_like(gradient))
    if cubic:
        coefficients = _solve_secular(values, projected, 2 * cubic)
        code = torch.full_like(finite, int(Reason.CONVERGED), dtype=torch.int64)
    else:
        coefficients, code = _solve_definite(values, projected)
    return vectors @ coefficients, torch.where(finite, code, int(Reason.NON_FINITE))


def _solve_definite(values: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
    """-g/λ along every eigenvector that g has a component in, or zero if one of those λ is not positive."""
    eps = torch.finfo(values.dtype).eps
    needed = projected.abs() > eps * norms(projected)
    positive = values > eps * values.abs().max()
    definite = (positive | ~needed).all()
    coefficients = torch.where(needed & positive & definite, -projected / values, 0.0)
    return coefficients, torch.where(definite, int(Reason.CONVERGED), int(Reason.NEGATIVE_CURVATURE))


def _solve_secular(values: Tensor, projected: Tensor, rho: float) -> Tensor:
    """Solve ‖(A + s I)⁻¹ g‖ = s / ρ̃ for s = max(0, -λ_min) + t by bisection in t, so nothing cancels in A + s I.

    In the hard case (g orthogonal to the lowest eigenvector) t is zero, and that vector gets what the norm lacks.
    """
    least = (-values[0]).clamp_min(0)
    gaps = values + least
    low, high = torch.zeros_like(least), (rho * norms(projected)).sqrt()
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        too_long = rho * norms(_shifted_solution(gaps, projected, middle)) > least + middle
        low, high = torch.where(too_long, middle, low), torch.where(too_long, high, middle)
    coefficients = _shifted_solution(gaps, projected, high)
    radius = (least + high) / rho
    missing = (radius**2 - coefficients.square().sum()).clamp_min(0)
    lowest = torch.copysign((coefficients[:1].square() + missing).sqrt(), coefficients[:1])
    return torch.cat([torch.where(least > 0, lowest, coefficients[:1]), coefficients[1:]])


def _shifted_solution(gaps: Tensor, projected: Tensor, shift: Tensor) -> Tensor:
    shifted = gaps + shift
    return torch.where(shifted > 0, -projected / shifted, 0.0)


def _cauchy_bound(beta: Tensor, norm: Tensor, rho: float) -> Tensor:
    """R with ‖d*‖ ≤ R (Carmon and Duchi, claim 2.1); 0 without a cubic term."""
    if rho == 0:
        return torch.zeros_like(beta)
    half = beta / (2 * rho)
    return half + torch.hypot(half, (norm / rho).sqrt())


def _line_minimiser(norm: Tensor, curvature: Tensor, rho: float) -> Tensor:
    """Length t ≥ 0 minimising -t‖g‖ + ½ t² uᵀAu + (ρ̃/3) t³ along u = g/‖g‖."""
    root = torch.hypot(curvature, 2 * (rho * norm).sqrt())
    positive = 2 * norm / (curvature + root).clamp_min(torch.finfo(norm.dtype).tiny)  # where their difference cancels
    return torch.where(curvature > 0, positive, (root - curvature) / (2 * rho) if rho else torch.zeros_like(norm))
