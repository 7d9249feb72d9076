"""Solvers of nonlinear local losses: L-BFGS, re-linearised Gauss-Newton and Adam."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from surmin.curvature.moments import InputMomentCache, estimate_moments
from surmin.solvers.conjugate_gradient import ConjugateGradient
from surmin.solvers.kronecker import KroneckerPreconditioner
from surmin.solvers.result import Reason, SolverResult
from surmin.stages.stage import Tape
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
        step = loss.block.vector().zero_().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [step], lr=1, max_iter=self.steps, max_eval=2 * self.steps, history_size=self.history,
            tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe",
        )  # fmt: skip
        values: list[Tensor] = []

        def closure() -> Tensor:
            value, step.grad = loss.value_and_gradient(step.detach())
            values.append(value)
            return value

        optimizer.step(closure)
        return _finish(loss, step.detach(), values)


@dataclass(frozen=True)
class Adam:
    """torch's Adam with a constant rate."""

    steps: int
    learning_rate: float = 3e-3

    def solve(self, loss: NonlinearLocalLoss) -> SolverResult:
        """First-order steps on the flat parameter vector."""
        step = loss.block.vector().zero_().requires_grad_()
        optimizer = torch.optim.Adam([step], lr=self.learning_rate)
        values: list[Tensor] = []
        for _ in range(self.steps):
            value, step.grad = loss.value_and_gradient(step.detach())
            values.append(value)
            optimizer.step()
        return _finish(loss, step.detach(), values)


@dataclass(frozen=True)
class GaussNewtonDescent:
    """Re-linearise the block, solve the quadratic by conjugate gradient, keep the step if the local loss falls.

    Attributes:
        steps: re-linearisations.
        fraction: of the samples that carry curvature, on which each of them is made; values and gradients are exact.
        tolerance: part of the local loss; a step that lowers it by less is the last.
        products: conjugate-gradient products each, Kronecker-preconditioned.
        first_moment: for the network's first trainable block, where the moment of its input is kept.
    """

    steps: int
    fraction: float = 1.0
    tolerance: float = 0.0
    products: int = 3
    first_moment: InputMomentCache | None = None

    def solve(self, loss: NonlinearLocalLoss) -> SolverResult:
        """Levenberg-Marquardt within the block: damping is added after a step that failed."""
        step = loss.block.vector().zero_()
        with torch.enable_grad():
            tape = loss.forward(step)
        start = value = new_value = loss.value(tape, step)
        extra, used, expansions, converged = 0.0, 0, 0, False
        expansion: tuple[Tensor, Callable[[Tensor, float], SolverResult]] | None = None
        for _ in range(self.steps):
            if expansion is None:
                expansion = loss.gradient(tape, step), self._model(loss, tape, expansions)
                expansions += 1
            gradient, model = expansion
            move = model(gradient, loss.damping + extra).step
            used += self.products
            with torch.enable_grad():
                trial = loss.forward(step + move)
            new_value = loss.value(trial, step + move)
            fell, is_little = torch.stack(
                [new_value < value, value - new_value < self.tolerance * value.abs()]
            ).tolist()
            if fell:
                step, value, tape, expansion, extra = step + move, new_value, trial, None, extra / 3
                if converged := is_little:
                    break
            else:
                extra = max(4 * extra, loss.damping)
        known = torch.isfinite(new_value) | step.any()
        decrease = torch.where(known, start - value + 0.5 * loss.damping * step.dot(step), torch.nan)
        return _result(step, decrease, used, Reason.CONVERGED if converged else Reason.MAX_STEPS)

    def _model(self, loss: NonlinearLocalLoss, tape: Tape, number: int) -> Callable[[Tensor, float], SolverResult]:
        """The quadratic at the tape's point, ready to be minimised from a gradient at some damping."""
        curvature = loss.linearized(tape, self.fraction, number)
        cache = self.first_moment or InputMomentCache()
        inputs = [tape.inputs[loss.block.first_trainable]] if self.first_moment else None
        block, shape = loss.block.index, loss.inputs.shape
        with loss.work.phase(("inner moments", block, shape)):
            moments = estimate_moments(curvature, inputs, cache, seed=0, replicas=loss.replicas)
        own = loss.work.counted(("inner product", block, shape), curvature.product)

        def minimise(gradient: Tensor, damping: float) -> SolverResult:
            with loss.work.phase(("inner invert", block)):
                preconditioner = KroneckerPreconditioner(moments, loss.inflation, damping)
            model = LocalLoss(gradient, lambda v: loss.replicas.mean(own(v)), loss.inflation, damping=damping)
            counted = loss.work.counted(("inner precondition", block), preconditioner)
            return ConjugateGradient(self.products).solve(model, counted)

        return minimise


def _finish(loss: NonlinearLocalLoss, step: Tensor, values: Sequence[Tensor]) -> SolverResult:
    """From the values of all evaluations, the first of which was at d = 0."""
    return _result(step, values[0] - loss.damped(0.0)(step), len(values))


def _result(step: Tensor, decrease: Tensor, evaluations: int, reason: Reason = Reason.MAX_STEPS) -> SolverResult:
    code = torch.where(decrease > 0, int(reason), int(Reason.NO_DECREASE))
    code = torch.where(torch.isfinite(decrease), code, int(Reason.NON_FINITE))
    return SolverResult(step, decrease, code, evaluations)
