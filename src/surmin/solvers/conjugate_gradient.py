"""Preconditioned conjugate gradient on the quadratic local loss (the paper's Section 4), never waiting for the device.

Legend: A = κ G + λ I, d the step, r = -g - A d the residual, y = P⁻¹ r, p the search direction; all in units of a power
of two above g, so that pᵀ A p does not underflow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.scaling import power_of_two
from surmin.solvers.result import Reason, SolverResult, undamped_decrease
from surmin.surrogates.local_loss import LocalLoss

CHECK_EVERY = 16
"""Steps between checks whether anything is left to do: the only synchronisation with the device."""

Preconditioner = Callable[[Tensor], Tensor]
"""v ↦ P⁻¹ v."""


@dataclass(frozen=True)
class ConjugateGradient:
    """At most `steps` products; after convergence, and from negative curvature on, the step stays as it is.

    A relative residual below a rounding error counts as converged: going on would only underflow. Whether all is done
    is checked every `CHECK_EVERY` products.
    """

    steps: int
    preconditioner: Preconditioner | None = None

    def solve(self, loss: LocalLoss) -> SolverResult:
        """Minimise ⟨g, d⟩ + ½ dᵀ A d from d = 0. The cubic term must be zero.

        Raises:
            ValueError: if the local loss has a cubic term; use a cubic solver.
        """
        if loss.cubic:
            raise ValueError("conjugate gradient minimises quadratics: solve a cubic local loss with a cubic solver")
        apply = self.preconditioner or (lambda vector: vector)
        scale = power_of_two(loss.gradient)
        gradient = loss.gradient / scale
        step, residual = torch.zeros_like(gradient), -gradient
        y = apply(residual)
        direction, slope = y, residual.dot(y)
        target = torch.finfo(residual.dtype).eps ** 2 * residual.dot(residual)
        code = _code(residual.dot(residual) <= target, slope)
        for taken in range(1, self.steps + 1):
            image = loss.product(direction)
            curvature = direction.dot(image)
            code.masked_fill_((code == 0) & ~torch.isfinite(curvature + slope), int(Reason.NON_FINITE))
            length = slope / curvature
            vanishes = (curvature <= 0) | ~torch.isfinite(length)
            code.masked_fill_((code == 0) & vanishes, int(Reason.NEGATIVE_CURVATURE))
            length.masked_fill_(code != 0, 0.0)
            step = step + _scaled(length, direction)
            residual = residual - _scaled(length, image)
            code.masked_fill_((code == 0) & (residual.dot(residual) <= target), int(Reason.CONVERGED))
            if taken == self.steps or (taken % CHECK_EVERY == 0 and bool(code != 0)):
                break
            y = apply(residual)
            previous, slope = slope, residual.dot(y)
            direction = (slope / previous * direction).add_(y)
        step, product = step.mul_(scale), (gradient + residual).mul_(-scale)
        return SolverResult(step, undamped_decrease(loss, step, product), code)


def _code(converged: Tensor, slope: Tensor) -> Tensor:
    code = torch.where(converged, int(Reason.CONVERGED), int(Reason.MAX_STEPS))
    return code.masked_fill_(~torch.isfinite(slope), int(Reason.NON_FINITE))


def _scaled(length: Tensor, vector: Tensor) -> Tensor:
    """length · vector, zero for length zero even if the vector is not finite; for any other length it is finite."""
    return (length * vector).nan_to_num_(0.0, math.inf, -math.inf)
