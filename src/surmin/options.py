"""Options of `SurrogateMinimizer`, their presets, and what fits with what."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict, get_args

SolverName = Literal["cg", "gd", "gd-armijo", "cubic-gd", "cubic-krylov", "lbfgs", "gauss-newton", "adam"]
NONLINEAR_SOLVERS = ("lbfgs", "gauss-newton", "adam")
CUBIC_SOLVERS = ("gd", "gd-armijo", "cubic-gd", "cubic-krylov")


class OptionValues(TypedDict, total=False):
    """The keyword options of `SurrogateMinimizer`; `Options` says what each means."""

    curvature: Literal["scalar", "sample", "factor"]
    blocks: Literal["layer", "stage"]
    local: Literal["quadratic", "nonlinear"]
    solver: SolverName
    inner_steps: int
    inner_learning_rate: float
    preconditioner: Literal["kronecker"] | None
    rank: int | None
    curvature_fraction: float
    top_factor: Literal["hessian", "smoothness"]
    damping: float
    adapt_damping: bool
    damping_candidates: Sequence[float]
    max_tries: int
    decoupling: Sequence[float] | None
    adapt_decoupling: bool
    cubic: float
    delta: float
    delta_relative: float | None
    power_steps: int
    eigenvalue: Literal["power", "lanczos"]
    seed: int


@dataclass(frozen=True)
class Options:
    """What a `SurrogateMinimizer` does in a step. Defaults are the `compute` preset.

    Attributes:
        curvature: what goes down the pipe: "factor" (columns R with M = R Rᵀ), "sample" or "scalar" (Appendix A).
        blocks: what gets a local loss of its own, a "layer" or a whole "stage".
        local: "quadratic" (equation 1) or "nonlinear", the surrogate through the block's own nonlinearity.
        solver: of the quadratic "cg", "gd" (fixed step), "gd-armijo", "cubic-gd", "cubic-krylov"; of the nonlinear "lbfgs",
            "gauss-newton", "adam".
        inner_steps: N, inner steps per round.
        inner_learning_rate: step size of "gd", first trial of "gd-armijo", and rate of "adam".
        preconditioner: "kronecker" or None; for conjugate gradient on factor curvature.
        rank: random columns per sample, or None for the exact factor.
        curvature_fraction: part of the batch that carries the curvature, in (0, 1]; the gradient is always on all of it.
        top_factor: "hessian" of the loss, or its "smoothness" bound √L I.
        damping: λ of the first step.
        adapt_damping: test every step and adapt λ; False keeps λ and accepts every step.
        damping_candidates: multiples of λ that are solved for and tried in one forward wave; the best is taken.
        max_tries: rejected steps after which a round gives up.
        decoupling: κ of every trainable block, Σ 1/κ = 1; None for κ = m.
        adapt_decoupling: let the inflation shrink where the bound proves loose (not below κ = 1).
        cubic: ρ of equation (1), the same for every block.
        delta: δ of Appendix A, in per-sample units.
        delta_relative: δ as a multiple of λ_max(H_zz) instead.
        power_steps: products spent on λ_max.
        eigenvalue: "power" iteration or "lanczos".
        seed: of everything random.
    """

    curvature: Literal["scalar", "sample", "factor"] = "factor"
    blocks: Literal["layer", "stage"] = "layer"
    local: Literal["quadratic", "nonlinear"] = "quadratic"
    solver: SolverName = "cg"
    inner_steps: int = 3
    inner_learning_rate: float = 1.0
    preconditioner: Literal["kronecker"] | None = "kronecker"
    rank: int | None = None
    curvature_fraction: float = 0.25
    top_factor: Literal["hessian", "smoothness"] = "hessian"
    damping: float = 1e-2
    adapt_damping: bool = True
    damping_candidates: Sequence[float] = (1.0,)
    max_tries: int = 8
    decoupling: Sequence[float] | None = None
    adapt_decoupling: bool = True
    cubic: float = 0.0
    delta: float = 1.0
    delta_relative: float | None = None
    power_steps: int = 20
    eigenvalue: Literal["power", "lanczos"] = "power"
    seed: int = field(default=0)


PRESETS: Mapping[str, Options] = {
    "compute": Options(),
    "trips": Options(
        blocks="stage", local="nonlinear", solver="lbfgs", inner_steps=80, preconditioner=None, curvature_fraction=1.0,
        damping_candidates=(0.1, 0.3, 1.0, 3.0),
    ),
    "paper": Options(
        curvature="scalar", inner_steps=20, preconditioner=None, curvature_fraction=1.0, damping=0.0, adapt_damping=False,
        adapt_decoupling=False,
    ),
}  # fmt: skip


def resolve_options(preset: str, given: Mapping[str, Any]) -> Options:
    """A preset with explicit options over it; options the preset has only for its own curvature or solver give way.

    Raises:
        ValueError: for an unknown preset, an unknown option, a value out of range, or options that do not go together.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    known = {option.name for option in fields(Options)}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ValueError(f"unknown option {name!r}" + (f": did you mean {close[0]!r}?" if close else ""))
    options = replace(PRESETS[preset], **given)
    quiet: dict[str, Any] = {}
    if "solver" not in given and options.local == "nonlinear" and options.solver not in NONLINEAR_SOLVERS:
        quiet["solver"] = "lbfgs"
    if "solver" not in given and options.local == "quadratic" and options.solver in NONLINEAR_SOLVERS:
        quiet["solver"] = "cubic-krylov" if options.cubic else "cg"
    if "solver" not in given and options.cubic and options.solver == "cg":
        quiet["solver"] = "cubic-krylov"
    options = replace(options, **quiet)
    if "preconditioner" not in given and (options.curvature != "factor" or options.solver != "cg"):
        options = replace(options, preconditioner=None)
    if "adapt_decoupling" not in given and (options.curvature != "factor" or not options.adapt_damping):
        options = replace(options, adapt_decoupling=False)
    _check(options)
    return options


def _check(options: Options) -> None:
    _check_choices(options)
    _check_ranges(options)
    _check_combinations(options)


def _check_choices(options: Options) -> None:
    for name in ("curvature", "blocks", "local", "solver", "top_factor", "eigenvalue"):
        choices = get_args(Options.__annotations__[name])
        if getattr(options, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(options, name)!r}")
    if options.preconditioner not in ("kronecker", None):
        raise ValueError(f"preconditioner must be 'kronecker' or None, got {options.preconditioner!r}")


def _check_ranges(options: Options) -> None:
    rules: list[tuple[str, bool, str]] = [
        ("inner_steps", options.inner_steps >= 1, "at least 1"),
        ("inner_learning_rate", options.inner_learning_rate > 0, "positive"),
        ("rank", options.rank is None or options.rank >= 1, "at least 1, or None for the exact factor"),
        ("curvature_fraction", 0 < options.curvature_fraction <= 1, "in (0, 1]"),
        ("damping", 0 <= options.damping < math.inf, "a number from 0 up"),
        ("max_tries", options.max_tries >= 1, "at least 1"),
        ("cubic", 0 <= options.cubic < math.inf, "a number from 0 up"),
        ("delta", 0 < options.delta < math.inf, "positive"),
        ("delta_relative", options.delta_relative is None or options.delta_relative > 0, "positive, or None"),
        ("power_steps", options.power_steps >= 1, "at least 1"),
        ("damping_candidates", _are_positive(options.damping_candidates), "one or more positive factors of λ"),
    ]
    for name, holds, rule in rules:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(options, name)!r}")


def _check_combinations(options: Options) -> None:
    nonlinear = options.local == "nonlinear"
    rules: list[tuple[bool, str]] = [
        (nonlinear != (options.solver in NONLINEAR_SOLVERS), f"solver {options.solver!r} does not solve {options.local} local losses"),
        (nonlinear and options.curvature != "factor", "nonlinear local losses need curvature='factor'"),
        (options.preconditioner is not None and options.curvature != "factor", "the Kronecker preconditioner needs curvature='factor'"),
        (options.preconditioner is not None and options.solver != "cg", "the Kronecker preconditioner needs solver='cg'"),
        (options.cubic > 0 and options.solver not in CUBIC_SOLVERS, f"solver {options.solver!r} cannot minimise a cubic term"),
        (options.decoupling is not None and options.curvature != "factor", "decoupling (κ) needs curvature='factor'; the others take delta"),
        (options.adapt_decoupling and not options.adapt_damping, "adapt_decoupling needs adapt_damping=True, which tests the steps"),
        (not options.adapt_damping and len(options.damping_candidates) > 1, "several damping_candidates need adapt_damping=True"),
        (options.adapt_damping and options.damping == 0, "adapt_damping needs a positive damping to adapt"),
    ]  # fmt: skip
    for broken, message in rules:
        if broken:
            raise ValueError(message)


def _are_positive(values: Sequence[float]) -> bool:
    return len(values) > 0 and all(0 < value < math.inf for value in values)
