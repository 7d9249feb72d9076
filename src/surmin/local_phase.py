"""The local phase (wave 4): what every block minimises, with which solver.

No communication happens here between stages; replicas average every curvature product, loss and moment they use.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor

from surmin.curvature.gauss_newton import GaussNewton
from surmin.curvature.input_moment import InputMomentCache
from surmin.curvature.sampling import usual_fraction
from surmin.options import Options
from surmin.pipeline.wave import BlockExpansion
from surmin.replicas import ONE_REPLICA, Replicas
from surmin.solvers.conjugate_gradient import ConjugateGradient
from surmin.solvers.cubic import CubicGradientDescent, CubicKrylov
from surmin.solvers.gauss_newton_descent import GaussNewtonDescent
from surmin.solvers.gradient_descent import ArmijoGradientDescent, GradientDescent
from surmin.solvers.kronecker import KroneckerConjugateGradient
from surmin.solvers.nonlinear import Adam, Lbfgs, NonlinearSolver
from surmin.solvers.result import Solver, SolverResult, checked_result
from surmin.stages.block import Block
from surmin.surrogates.local_loss import LocalLoss
from surmin.surrogates.nonlinear import NonlinearLocalLoss, nonlinear_local_loss, quadratic_surrogate
from surmin.surrogates.output_surrogate import NetworkLoss
from surmin.work import WorkMeter

QUADRATIC_SOLVERS: dict[str, Callable[[Options], Solver]] = {
    "cg": lambda options: ConjugateGradient(options.inner_steps),
    "gd": lambda options: GradientDescent(options.inner_steps, options.inner_learning_rate or 1.0),
    "gd-armijo": lambda options: ArmijoGradientDescent(options.inner_steps, options.inner_learning_rate or 1.0),
    "cubic-gd": lambda options: CubicGradientDescent(options.inner_steps),
    "cubic-krylov": lambda options: CubicKrylov(options.inner_steps),
}


@dataclass(frozen=True)
class QuadraticProblem:
    """One block's quadratic local loss and its solver."""

    block: Block
    loss: LocalLoss
    solver: Solver

    def solve(self, inflation: float, damping: float) -> SolverResult:
        """Minimise at this κ and λ."""
        return _checked(self, self.solver.solve(self.loss.inflated(inflation).damped(damping)))


@dataclass(frozen=True)
class NonlinearProblem:
    """One block's nonlinear local loss and its solver."""

    block: Block
    loss: NonlinearLocalLoss
    solver: NonlinearSolver

    def solve(self, inflation: float, damping: float, start: Tensor | None = None) -> SolverResult:
        """Minimise at this κ and λ, from `start` if that is better than the block's current point."""
        return _checked(self, self.solver.solve(self.loss.inflated(inflation).damped(damping), start))

    def entered_by(self, inputs: Tensor) -> "NonlinearProblem":
        """The same problem with other activations arriving."""
        return replace(self, loss=self.loss.entered_by(inputs))


Problem = QuadraticProblem | NonlinearProblem


def _checked(problem: Problem, result: SolverResult) -> SolverResult:
    """A solver of the user's own may return anything."""
    parameter = next(iter(problem.block.first_trainable_layer.parameters.values()))
    return checked_result(result, problem.solver, problem.block.size, parameter)


class LocalPhase:
    """Turns what the waves left in each block into the problem the block solves."""

    def __init__(self, options: Options, work: WorkMeter, replicas: Replicas = ONE_REPLICA) -> None:
        self.options = options
        self.work = work
        self.replicas = replicas
        self._first_moment = InputMomentCache(replicas)

    def problem(self, expansion: BlockExpansion, seed: int, top: NetworkLoss | None = None) -> Problem:
        """The local loss of one block and its solver.

        Args:
            expansion: what the gradient and curvature waves left.
            seed: of what solvers draw, and of the probe that scales layers without Kronecker structure.
            top: the loss itself, which the block minimises instead of a quadratic in its output.
        """
        options, block = self.options, expansion.block
        if options.local == "nonlinear":
            assert isinstance(expansion.curvature, GaussNewton)
            curvature = expansion.curvature
            surrogate = top or quadratic_surrogate(block, expansion.tapes, expansion.messages, curvature.samples)
            loss = nonlinear_local_loss(
                block, expansion.tapes, surrogate, self.work, expansion.kind, seed, self.replicas
            )
            return NonlinearProblem(block, loss, self._nonlinear_solver(block, curvature.samples))
        own = expansion.products(self.work)
        quadratic = LocalLoss(expansion.gradient, lambda v: self.replicas.mean(own(v)), cubic=options.cubic)
        return QuadraticProblem(block, quadratic, self._quadratic_solver(expansion, seed))

    def _quadratic_solver(self, expansion: BlockExpansion, seed: int) -> Solver:
        solver = self.options.solver
        if not isinstance(solver, str):
            return cast(Solver, solver)
        if self.options.preconditioner is None:
            return QUADRATIC_SOLVERS[solver](self.options)
        moments = expansion.moments(self._first_moment, seed, self.work, self.replicas)
        return KroneckerConjugateGradient(self.options.inner_steps, moments, self.work, (expansion.kind,))

    def _nonlinear_solver(self, block: Block, samples: int) -> NonlinearSolver:
        """For a block whose curvature so many samples carry."""
        options = self.options
        if not isinstance(options.solver, str):
            return cast(NonlinearSolver, options.solver)
        if options.solver == "lbfgs":
            return Lbfgs(options.inner_steps)
        if options.solver == "adam":
            return Adam(options.inner_steps, options.inner_learning_rate or 3e-3)
        first_moment = self._first_moment if block.index == 0 else None
        fraction = options.inner_fraction or usual_fraction(samples)
        return GaussNewtonDescent(options.inner_steps, fraction, options.inner_tolerance, first_moment=first_moment)
