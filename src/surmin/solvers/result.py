"""What every solver of a local loss returns. Failure is a value with a name, not an exception."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable

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


def named(code: int) -> str:
    """A reason in words; a solver of the user's own may have others."""
    known = {int(reason): reason.name.lower().replace("_", " ") for reason in Reason}
    return known.get(code, f"solver code {code}")


@dataclass(frozen=True)
class SolverResult:
    """A step and how it came about. The fields stay on the device until they are needed.

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


@runtime_checkable
class Solver(Protocol):
    """Minimises a quadratic local loss approximately."""

    def solve(self, loss: LocalLoss) -> SolverResult:
        """A step d with L(d) ≤ L(0), unless the reason says otherwise."""


def checked_result(result: object, solver: object, size: int, parameter: Tensor) -> SolverResult:
    """A solver's result without a graph.

    Raises:
        TypeError: if it is not a result.
        ValueError: if its step is not `size` numbers of the parameter's kind, or decrease or code is not a number.
    """
    name = f"{type(solver).__name__}.solve"
    if not isinstance(result, SolverResult):
        raise TypeError(f"{name} must return a surmin.solvers.result.SolverResult, got {type(result).__name__}")
    step, *numbers = fields = (result.step, result.decrease, result.code)
    if not all(isinstance(value, Tensor) for value in fields):
        raise TypeError(f"{name} must return step, decrease and code as tensors, got {_types(fields)}")
    if step.shape != (size,) or step.dtype != parameter.dtype or step.device != parameter.device:
        raise ValueError(
            f"{name} must return a step of shape ({size},), {parameter.dtype} on {parameter.device}, "
            f"got {tuple(step.shape)}, {step.dtype} on {step.device}"
        )
    if any(number.dim() for number in numbers):
        raise ValueError(f"{name} must return its decrease and its code as 0-dimensional tensors")
    has_graph = any(value.requires_grad for value in fields)
    return SolverResult(*(value.detach() for value in fields)) if has_graph else result


def _types(values: Iterable[object]) -> str:
    return ", ".join(type(value).__name__ for value in values)


def undamped_decrease(loss: LocalLoss, step: Tensor, damped_product: Tensor) -> Tensor:
    """-L(d) without the damping term, given (κ G + λ I) d: no further product is needed."""
    value = loss.gradient.dot(step) + 0.5 * step.dot(damped_product)
    if loss.damping:  # zero times a square that overflows is not zero
        value = value - 0.5 * loss.damping * step.dot(step)
    if loss.cubic:
        value = value + 2 * loss.cubic / 3 * step.norm() ** 3
    return -value


def finish(step: Tensor, decrease: Tensor, reason: Reason = Reason.MAX_STEPS) -> SolverResult:
    """A result with that reason, or with a more fitting one if nothing was gained."""
    code = torch.where(decrease > 0, int(reason), int(Reason.NO_DECREASE))
    code = torch.where(torch.isfinite(decrease), code, int(Reason.NON_FINITE))
    return SolverResult(step, decrease, code)
