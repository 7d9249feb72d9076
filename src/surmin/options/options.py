"""Options of `SurrogateMinimizer` and what each means."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypedDict

from surmin.curvature.wire import WireName
from surmin.solvers.nonlinear import NonlinearSolver
from surmin.solvers.result import Solver

SolverName = Literal["cg", "gd", "gd-armijo", "cubic-gd", "cubic-krylov", "lbfgs", "gauss-newton", "adam"]
NONLINEAR_SOLVERS = ("lbfgs", "gauss-newton", "adam")
CUBIC_SOLVERS = ("gd", "gd-armijo", "cubic-gd", "cubic-krylov")


class OptionValues(TypedDict, total=False):
    """The keyword options of `SurrogateMinimizer`; `Options` says what each means."""

    curvature: Literal["scalar", "sample", "factor"]
    blocks: Literal["layer", "stage"]
    local: Literal["quadratic", "nonlinear"]
    order: Literal["parallel", "sequential"]
    solver: SolverName | Solver | NonlinearSolver
    inner_steps: int
    inner_learning_rate: float | None
    preconditioner: Literal["kronecker"] | None
    rank: int | None
    curvature_fraction: float
    inner_fraction: float | None
    inner_tolerance: float
    top_factor: Literal["hessian", "smoothness"]
    damping: float
    adapt_damping: bool
    accept_above: float
    damping_candidates: Sequence[float]
    momentum_candidates: Sequence[float]
    max_tries: int
    decoupling: Sequence[float] | None
    adapt_decoupling: bool
    cubic: float
    delta: float
    delta_relative: float | None
    power_steps: int
    eigenvalue: Literal["power", "lanczos"]
    hessian_products: Literal["exact", "finite-difference"]
    wire: WireName | None
    seed: int


@dataclass(frozen=True)
class Options:
    """What a `SurrogateMinimizer` does in a step. Defaults are the `compute` preset.

    Attributes:
        curvature: what goes down the pipe: "factor" (columns R with M = R Rᵀ), "sample" or "scalar" (Appendix A).
        blocks: what gets its own local loss, a "layer" or a whole "stage".
        local: "quadratic" (equation 1) or "nonlinear", the surrogate through the block's own nonlinearity.
        order: "parallel": all blocks solve at once without communication; "sequential": every stage solves when the
            activations of the moved stages below arrive, then sends its own on: far fewer trips, each longer.
        solver: for quadratic local losses "cg", "gd" (fixed step), "gd-armijo", "cubic-gd", "cubic-krylov"; for
            nonlinear ones "gauss-newton", "lbfgs", "adam"; or your own object, which ignores inner_steps and
            inner_learning_rate.
        inner_steps: N, inner steps per round.
        inner_learning_rate: step size of "gd", first trial of "gd-armijo" (1 if None), rate of "adam" (3e-3 if None).
        preconditioner: "kronecker" or None; for conjugate gradient on factor curvature.
        rank: random columns per sample, or None for the exact factor; with 100 outputs, 32 are faster.
        curvature_fraction: fraction of the batch used for curvature, in (0, 1]; the gradient always uses all of it.
        inner_fraction: of "gauss-newton": fraction of those samples used to build each inner step's model, in (0, 1];
            None for 400 samples, or all if there are fewer.
        inner_tolerance: of "gauss-newton": a block stops after an inner step that lowers its local loss by less than
            this fraction.
        top_factor: "hessian" of the loss, or its "smoothness" bound √L I.
        damping: λ of the first step.
        adapt_damping: test every step and adapt λ; False keeps λ and takes every finite step.
        accept_above: a step is taken if the loss's actual decrease over the predicted one exceeds this. Less takes
            bolder steps: it spares rejected waves, and overfits mini-batches more (¼ did).
        damping_candidates: multiples of λ solved for and tried in one forward wave; the best is taken.
        momentum_candidates: shares of the last accepted step to add to the new one, tried in the same wave.
        max_tries: rejected steps after which a round gives up.
        decoupling: κ of every trainable block, Σ 1/κ = 1; None for κ = m.
        adapt_decoupling: let the inflation shrink where the bound proves loose (not below κ = 1).
        cubic: ρ of equation (1), the same for every block.
        delta: δ of Appendix A, in per-sample units: n times the paper's.
        delta_relative: δ as a multiple of λ_max(H_zz) instead.
        power_steps: products spent on estimating λ_max.
        eigenvalue: "power" iteration or "lanczos".
        hessian_products: of scalar and sample curvature: "exact", or by "finite-difference" as in the paper.
        wire: of factor curvature: the type columns are rounded to between workers; None keeps their own.
        seed: seed of everything random.
    """

    curvature: Literal["scalar", "sample", "factor"] = "factor"
    blocks: Literal["layer", "stage"] = "layer"
    local: Literal["quadratic", "nonlinear"] = "quadratic"
    order: Literal["parallel", "sequential"] = "parallel"
    solver: SolverName | Solver | NonlinearSolver = "cg"
    inner_steps: int = 3
    inner_learning_rate: float | None = None
    preconditioner: Literal["kronecker"] | None = "kronecker"
    rank: int | None = None
    curvature_fraction: float = 0.25
    inner_fraction: float | None = 1.0
    inner_tolerance: float = 0.0
    top_factor: Literal["hessian", "smoothness"] = "hessian"
    damping: float = 1e-2
    adapt_damping: bool = True
    accept_above: float = 0.4
    damping_candidates: Sequence[float] = (1.0,)
    momentum_candidates: Sequence[float] = (0.0, 0.5)
    max_tries: int = 8
    decoupling: Sequence[float] | None = None
    adapt_decoupling: bool = True
    cubic: float = 0.0
    delta: float = 1.0
    delta_relative: float | None = None
    power_steps: int = 20
    eigenvalue: Literal["power", "lanczos"] = "power"
    hessian_products: Literal["exact", "finite-difference"] = "exact"
    wire: WireName | None = None
    seed: int = 0

    def described(self) -> str:
        """In words: those that differ from the defaults, as written in Python."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        others = [f"{name}={_written(value)}" for name, value in given.items() if value != getattr(Options, name)]
        return f"options {', '.join(others)}" if others else "the default options"


def _written(value: object) -> str:
    """As Python writes it; an object whose repr would be its address, by its type."""
    return f"{type(value).__qualname__}()" if type(value).__repr__ is object.__repr__ else repr(value)
