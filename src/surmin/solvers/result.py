"""What every solver of a local loss returns. Failure is a value with a name, not an exception."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from surmin.surrogates.local_loss import LocalLoss


class Reason(IntEnum):
    """Why a solver stopped."""

    MAX_STEPS = 0
    CONVERGED = 1
    NEGATIVE_CURVATURE = 2
    NON_FINITE = 3
    NO_DECREASE = 4


@dataclass(frozen=True)
class SolverResult:
    """A step and how it came about. The fields stay on the device until they are asked for.

    Attributes:
        step: d, a flat vector (P,).
        decrease: L(0) - L(d) of the undamped local loss, 0-dimensional: the predicted decrease of equation (1).
        code: 0-dimensional integer tensor holding a `Reason`.
    """

    step: Tensor
    decrease: Tensor
    code: Tensor

    @property
    def reason(self) -> Reason:
        """Why the solver stopped (waits for the device)."""
        return Reason(int(self.code))


class Solver(Protocol):
    """Minimises a local loss approximately."""

    def solve(self, loss: LocalLoss) -> SolverResult:
        """A step d with L(d) ≤ L(0), unless the reason says otherwise."""


def undamped_decrease(loss: LocalLoss, step: Tensor, damped_product: Tensor) -> Tensor:
    """-L(d) without the damping term, given (κ G + λ I) d: no further product is needed."""
    value = loss.gradient.dot(step) + 0.5 * step.dot(damped_product)
    if loss.damping:  # zero times a square that overflows is not zero
        value = value - 0.5 * loss.damping * step.dot(step)
    if loss.cubic:
        value = value + 2 * loss.cubic / 3 * step.norm() ** 3
    return -value


def finish(step: Tensor, decrease: Tensor, reason: Reason = Reason.MAX_STEPS) -> SolverResult:
    """A result with that reason, or with a better one where nothing was gained."""
    code = torch.where(decrease > 0, int(reason), int(Reason.NO_DECREASE))
    code = torch.where(torch.isfinite(decrease), code, int(Reason.NON_FINITE))
    return SolverResult(step, decrease, code)
