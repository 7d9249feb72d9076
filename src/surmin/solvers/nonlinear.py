"""Solvers of nonlinear local losses: L-BFGS, re-linearised Gauss-Newton and Adam."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jvp, vjp

from surmin.solvers.conjugate_gradient import ConjugateGradient
from surmin.solvers.result import Reason, SolverResult
from surmin.surrogates.local_loss import LocalLoss
from surmin.surrogates.nonlinear import NonlinearLocalLoss


class NonlinearSolver(Protocol):
    """Minimises a nonlinear local loss approximately, from d = 0."""

    def solve(self, loss: NonlinearLocalLoss) -> SolverResult:
        """A step d and the decrease of the undamped local loss."""


@dataclass(frozen=True)
class Lbfgs:
    """torch's L-BFGS with a strong Wolfe line search, `steps` iterations."""

    steps: int
    history: int = 20

    def solve(self, loss: NonlinearLocalLoss) -> SolverResult:
        """Quasi-Newton steps on the flat parameter vector."""
        step = torch.zeros_like(loss.origin, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [step], lr=1, max_iter=self.steps, max_eval=2 * self.steps, history_size=self.history,
            tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe",
        )  # fmt: skip
        evaluations = 0

        def closure() -> Tensor:
            nonlocal evaluations
            evaluations += 1
            value, step.grad = loss.value_and_gradient(step.detach())
            return value

        optimizer.step(closure)
        return _finish(loss, step.detach(), evaluations)


@dataclass(frozen=True)
class Adam:
    """torch's Adam with a constant rate."""

    steps: int
    learning_rate: float = 3e-3

    def solve(self, loss: NonlinearLocalLoss) -> SolverResult:
        """First-order steps on the flat parameter vector."""
        step = torch.zeros_like(loss.origin, requires_grad=True)
        optimizer = torch.optim.Adam([step], lr=self.learning_rate)
        for _ in range(self.steps):
            _, step.grad = loss.value_and_gradient(step.detach())
            optimizer.step()
        return _finish(loss, step.detach(), self.steps)


@dataclass(frozen=True)
class GaussNewtonDescent:
    """Re-linearise the block, solve the quadratic by conjugate gradient, keep the step if the local loss falls.

    `steps` re-linearisations of `products` conjugate-gradient products each, with a damping of its own that adapts.
    """

    steps: int
    products: int = 10
    initial_damping: float = 1e-3

    def solve(self, loss: NonlinearLocalLoss) -> SolverResult:
        """Levenberg-Marquardt within the block."""
        step = torch.zeros_like(loss.origin)
        value, gradient = loss.value_and_gradient(step)
        inner = ConjugateGradient(self.products)
        damping, used = self.initial_damping, 1
        for _ in range(self.steps):
            model = LocalLoss(gradient, _gauss_newton_product(loss, step), damping=loss.damping + damping)
            move = inner.solve(model).step
            trial = step + move
            new_value, new_gradient = loss.value_and_gradient(trial)
            used += self.products + 1
            if bool(new_value < value):
                step, value, gradient, damping = trial, new_value, new_gradient, damping / 3
            else:
                damping *= 4
        return _finish(loss, step, used)


def _gauss_newton_product(loss: NonlinearLocalLoss, step: Tensor) -> Callable[[Tensor], Tensor]:
    """V ↦ (κ/q) Σ_j J(θ)ᵀ R_j R_jᵀ J(θ) v at the current inner point."""
    parameters = loss.origin + step

    def product(direction: Tensor) -> Tensor:
        total = torch.zeros_like(direction)
        for piece in loss.pieces:

            def forward(theta: Tensor, inputs: Tensor = piece.sampled_inputs) -> Tensor:
                return loss.forward(inputs, theta)

            tangent = jvp(forward, (parameters,), (direction,))[1]
            coefficients = torch.linalg.vecdot(piece.columns.flatten(2), tangent.flatten(1))
            cotangent = torch.einsum("kn...,kn->n...", piece.columns, coefficients)
            total = total + vjp(forward, parameters)[1](cotangent)[0]
        return loss.inflation / loss.samples * total

    return product


def _finish(loss: NonlinearLocalLoss, step: Tensor, evaluations: int) -> SolverResult:
    with torch.no_grad():
        decrease = -loss.damped(0.0)(step)
    finite = bool(torch.isfinite(decrease)) and math.isfinite(float(step.sum()))
    reason = Reason.MAX_STEPS if finite else Reason.NON_FINITE
    if finite and float(decrease) <= 0:
        reason = Reason.NO_DECREASE
    return SolverResult(step, decrease, torch.tensor(int(reason)), evaluations)
