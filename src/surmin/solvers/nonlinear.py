"""Solvers of nonlinear local losses: L-BFGS and Adam; Gauss-Newton steps have their own file."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from surmin.solvers.result import SolverResult, finish
from surmin.surrogates.nonlinear import LossPoint, NonlinearLocalLoss

HISTORY = 20
"""Pairs of steps and gradient changes that L-BFGS keeps."""


@runtime_checkable
class NonlinearSolver(Protocol):
    """Minimises a nonlinear local loss approximately."""

    def solve(self, loss: NonlinearLocalLoss, start: Tensor | None = None) -> SolverResult:
        """A step d and the decrease of the undamped local loss.

        Args:
            loss: of one block.
            start: a step to start from if the local loss is lower there than at d = 0; otherwise it starts at d = 0.
        """


@dataclass(frozen=True)
class Lbfgs:
    """torch's L-BFGS with a strong Wolfe line search, `steps` iterations."""

    steps: int

    def solve(self, loss: NonlinearLocalLoss, start: Tensor | None = None) -> SolverResult:
        """Quasi-Newton steps on the flat parameter vector."""
        step, origin = _begin_unrecorded(loss, start)
        optimizer = torch.optim.LBFGS(
            [step], lr=1, max_iter=self.steps, max_eval=2 * self.steps, history_size=HISTORY,
            tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            value, step.grad = loss.value_and_gradient(step.detach())
            return value

        optimizer.step(closure)
        return finish(step.detach(), origin - loss.damped(0.0)(step.detach()))


@dataclass(frozen=True)
class Adam:
    """torch's Adam with a constant rate."""

    steps: int
    learning_rate: float = 3e-3

    def solve(self, loss: NonlinearLocalLoss, start: Tensor | None = None) -> SolverResult:
        """First-order steps on the flat parameter vector."""
        step, origin = _begin_unrecorded(loss, start)
        optimizer = torch.optim.Adam([step], lr=self.learning_rate)
        for _ in range(self.steps):
            _, step.grad = loss.value_and_gradient(step.detach())
            optimizer.step()
        return finish(step.detach(), origin - loss.damped(0.0)(step.detach()))


def begin(loss: NonlinearLocalLoss, start: Tensor | None) -> tuple[LossPoint, Tensor]:
    """The lower of d = 0 and `start`, and L(0)."""
    origin = loss.at(loss.block.vector().zero_())
    if start is None:
        return origin, origin.value
    other = loss.at(start)
    return (other if bool(other.value < origin.value) else origin), origin.value


def _begin_unrecorded(loss: NonlinearLocalLoss, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same, but only the point's step, as a leaf: what was recorded there would fill memory through the solve."""
    point, origin = begin(loss, start)
    return point.step.clone().requires_grad_(), origin
