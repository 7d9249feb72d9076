"""Gauss-Newton steps on a nonlinear local loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.curvature.input_moment import InputMomentCache
from surmin.curvature.moments import estimate_moments
from surmin.seeds import draw_seed
from surmin.solvers.kronecker import KroneckerConjugateGradient
from surmin.solvers.nonlinear import begin
from surmin.solvers.result import Reason, SolverResult, finish
from surmin.surrogates.local_loss import LocalLoss
from surmin.surrogates.nonlinear import LossPoint, NonlinearLocalLoss

SHORTEST, LONGEST = 0.1, 0.5
"""A step that fails is tried once more, at a share of its length between these."""
RAISE, LOWER = 4.0, 1 / 3

Model = Callable[[Tensor, float], SolverResult]
"""From a gradient and a damping to the minimiser of the quadratic with that gradient."""


@dataclass(frozen=True)
class GaussNewtonDescent:
    """Re-linearise the block, solve the quadratic by conjugate gradient, keep the step if the local loss falls.

    Attributes:
        steps: number of quadratics to solve.
        fraction: fraction of the samples with curvature used to build each quadratic; values and gradients are exact.
        tolerance: a step that lowers the local loss by less than this fraction is the last.
        products: conjugate-gradient products for each, Kronecker-preconditioned.
        first_moment: for the network's first trainable block, the cache of its input's moment.
    """

    steps: int
    fraction: float = 1.0
    tolerance: float = 0.0
    products: int = 3
    first_moment: InputMomentCache | None = None

    def solve(self, loss: NonlinearLocalLoss, start: Tensor | None = None) -> SolverResult:
        """Levenberg-Marquardt within the block: a step that fails is shortened, and the next one damped more.

        The extra damping is at least the quadratic's curvature along the step, so that the next one is half as long
        however small λ is; raised by fours from next to nothing, λ would use up all steps.
        """
        point, origin = begin(loss, start)
        trial, extra, expansions, converged = point, 0.0, 0, False
        expansion: tuple[Tensor, Model] | None = None
        for _ in range(self.steps):
            if expansion is None:
                expansion = loss.gradient(point), self._model(loss, point, expansions)
                expansions += 1
            gradient, model = expansion
            move = model(gradient, loss.damping + extra).step
            trial = loss.at(point.step + move)
            fell, is_little = self._compare(point, trial)
            if fell:
                extra *= LOWER
            else:
                slope = gradient.dot(move)
                curvature = _damped_curvature(move, slope) - loss.damping - extra
                extra = max(RAISE * extra, loss.damping, curvature)
                trial = loss.at(point.step + _share(slope, trial.value - point.value) * move)
                fell, is_little = self._compare(point, trial)
            if fell:
                point, expansion = trial, None
                if converged := is_little:
                    break
            elif not extra:
                break  # without damping the next one would be the same
        known = torch.isfinite(trial.value) | point.step.any()
        decrease = torch.where(known, origin - point.value + 0.5 * loss.damping * point.step.dot(point.step), torch.nan)
        return finish(point.step, decrease, Reason.CONVERGED if converged else Reason.MAX_STEPS)

    def _compare(self, point: LossPoint, trial: LossPoint) -> tuple[bool, bool]:
        """Whether the local loss fell, and by less than the tolerance; waits for the device."""
        gain = point.value - trial.value
        fell, is_little = torch.stack([gain > 0, gain < self.tolerance * point.value.abs()]).tolist()
        return fell, is_little

    def _model(self, loss: NonlinearLocalLoss, point: LossPoint, number: int) -> Model:
        """The quadratic at the point, ready to be minimised from a gradient at some damping."""
        curvature = loss.linearized(point, self.fraction, number)
        inputs = point.tape.inputs[loss.block.first_trainable]
        first = None if self.first_moment is None else self.first_moment.of([inputs])
        with loss.work.phase((*loss.key("inner moments"), self.fraction, first is not None and first.is_known)):
            moments = estimate_moments(curvature, first, draw_seed(loss.seed, number), loss.replicas)
        own = loss.work.counted((*loss.key("inner product"), self.fraction), curvature.product)

        def product(vectors: Tensor) -> Tensor:
            return loss.replicas.mean(own(vectors))

        solver = KroneckerConjugateGradient(self.products, moments, loss.work, loss.key("inner"))

        def minimise(gradient: Tensor, damping: float) -> SolverResult:
            return solver.solve(LocalLoss(gradient, product, loss.inflation, damping=damping))

        return minimise


def _damped_curvature(step: Tensor, slope: Tensor) -> float:
    """dᵀ A d / ‖d‖² at a quadratic's minimiser d, where dᵀ A d = -⟨g, d⟩ = -slope; 0 without a step."""
    return float(torch.nan_to_num(-slope / step.dot(step), nan=0.0, posinf=0.0))


def _share(slope: Tensor, change: Tensor) -> Tensor:
    """The share of a step at which the parabola with this slope at its start and this change at its end is least."""
    least = -slope / (2 * (change - slope))
    return torch.nan_to_num(least, nan=SHORTEST).clamp(SHORTEST, LONGEST).to(slope.dtype)
