"""Options of `SurrogateMinimizer`, their presets, and what fits with what."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict, get_args

from surmin.curvature.wire import WireName

SolverName = Literal["cg", "gd", "gd-armijo", "cubic-gd", "cubic-krylov", "lbfgs", "gauss-newton", "adam"]
NONLINEAR_SOLVERS = ("lbfgs", "gauss-newton", "adam")
CUBIC_SOLVERS = ("gd", "gd-armijo", "cubic-gd", "cubic-krylov")


class OptionValues(TypedDict, total=False):
    """The keyword options of `SurrogateMinimizer`; `Options` says what each means."""

    curvature: Literal["scalar", "sample", "factor"]
    blocks: Literal["layer", "stage"]
    local: Literal["quadratic", "nonlinear"]
    order: Literal["parallel", "sequential"]
    solver: SolverName
    inner_steps: int
    inner_learning_rate: float | None
    preconditioner: Literal["kronecker"] | None
    rank: int | None
    curvature_fraction: float
    inner_fraction: float
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
        blocks: what gets a local loss of its own, a "layer" or a whole "stage".
        local: "quadratic" (equation 1) or "nonlinear", the surrogate through the block's own nonlinearity.
        order: "parallel", all blocks solve at once and without communication, or "sequential", every stage solves when
            the activations of the moved stages below arrive and then sends its own on: far fewer trips, each longer.
        solver: of the quadratic "cg", "gd" (fixed step), "gd-armijo", "cubic-gd", "cubic-krylov"; of the nonlinear
            "gauss-newton", "lbfgs", "adam".
        inner_steps: N, inner steps per round.
        inner_learning_rate: step size of "gd", first trial of "gd-armijo" (1 if None), rate of "adam" (3e-3 if None).
        preconditioner: "kronecker" or None; for conjugate gradient on factor curvature.
        rank: random columns per sample, or None for the exact factor.
        curvature_fraction: part of the batch that carries the curvature, in (0, 1]; the gradient is always on all.
        inner_fraction: of "gauss-newton": part of those samples that each inner step's model is made of, in (0, 1].
        top_factor: "hessian" of the loss, or its "smoothness" bound √L I.
        damping: λ of the first step.
        adapt_damping: test every step and adapt λ; False keeps λ and accepts every step.
        accept_above: actual over predicted decrease of the loss, above which a step is taken. On mini-batches ¼ fits
            each batch too closely; where a rejection is dear, less is better.
        damping_candidates: multiples of λ that are solved for and tried in one forward wave; the best is taken.
        momentum_candidates: shares of the last accepted step that are added to the new one and tried in the same wave.
        max_tries: rejected steps after which a round gives up.
        decoupling: κ of every trainable block, Σ 1/κ = 1; None for κ = m.
        adapt_decoupling: let the inflation shrink where the bound proves loose (not below κ = 1).
        cubic: ρ of equation (1), the same for every block.
        delta: δ of Appendix A, in per-sample units.
        delta_relative: δ as a multiple of λ_max(H_zz) instead.
        power_steps: products spent on λ_max.
        eigenvalue: "power" iteration or "lanczos".
        hessian_products: of scalar and sample curvature: "exact", or by "finite-difference" as in the paper.
        wire: of factor curvature: the type that columns are rounded to between workers; None keeps their own.
        seed: of everything random.
    """

    curvature: Literal["scalar", "sample", "factor"] = "factor"
    blocks: Literal["layer", "stage"] = "layer"
    local: Literal["quadratic", "nonlinear"] = "quadratic"
    order: Literal["parallel", "sequential"] = "parallel"
    solver: SolverName = "cg"
    inner_steps: int = 3
    inner_learning_rate: float | None = None
    preconditioner: Literal["kronecker"] | None = "kronecker"
    rank: int | None = None
    curvature_fraction: float = 0.25
    inner_fraction: float = 1.0
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


PRESETS: Mapping[str, Options] = {
    "compute": Options(),
    "links": Options(curvature_fraction=0.15, accept_above=0.1, momentum_candidates=(0.3,), wire="int8"),
    "trips": Options(
        blocks="stage", local="nonlinear", order="sequential", solver="gauss-newton", inner_steps=6,
        preconditioner=None, curvature_fraction=1.0, inner_fraction=0.2, damping=0.1, accept_above=0.0,
        damping_candidates=(0.1, 1.0, 10.0), momentum_candidates=(0.0, 0.3, 0.6),
    ),
    "paper": Options(
        curvature="scalar", inner_steps=20, preconditioner=None, curvature_fraction=1.0, damping=0.0,
        adapt_damping=False, adapt_decoupling=False, momentum_candidates=(0.0,),
    ),
}  # fmt: skip


def resolve_options(preset: str, given: Mapping[str, Any]) -> Options:
    """A preset with explicit options over it; what the preset has only for other choices than those gives way.

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
    if "solver" not in given:
        options = replace(options, solver=_default_solver(options))
    gives_way: dict[str, Any] = {}
    if options.local != "nonlinear" or options.blocks != "stage" or not options.adapt_damping:
        gives_way["order"] = "parallel"
    elif options.order == "sequential":
        gives_way |= {"adapt_decoupling": False, "momentum_candidates": (0.0,)}
    if options.curvature != "factor" or options.solver != "cg":
        gives_way["preconditioner"] = None
    if options.solver != "gauss-newton":
        gives_way["inner_fraction"] = 1.0
    if options.curvature != "factor":
        gives_way["wire"] = None
    if options.curvature != "factor" or not options.adapt_damping:
        gives_way["adapt_decoupling"] = False
    if not options.adapt_damping:
        gives_way |= {"damping_candidates": (1.0,), "momentum_candidates": (0.0,)}
    options = replace(options, **{name: value for name, value in gives_way.items() if name not in given})
    _check_choices(options)
    _check_types(options)
    _check_ranges(options)
    _check_combinations(options)
    return options


def _default_solver(options: Options) -> SolverName:
    """The preset's solver if it solves this kind of local loss, otherwise the usual one that does."""
    if options.local == "nonlinear":
        return options.solver if options.solver in NONLINEAR_SOLVERS else "gauss-newton"
    if options.cubic:
        return options.solver if options.solver in CUBIC_SOLVERS else "cubic-krylov"
    return "cg" if options.solver in NONLINEAR_SOLVERS else options.solver


def _check_choices(options: Options) -> None:
    if options.wire not in (*get_args(WireName), None):
        raise ValueError(f"wire must be 'bfloat16', 'float16', 'int8' or None, got {options.wire!r}")
    for name in ("curvature", "blocks", "local", "order", "solver", "top_factor", "eigenvalue", "hessian_products"):
        choices = get_args(Options.__annotations__[name])
        if getattr(options, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(options, name)!r}")
    if options.preconditioner not in ("kronecker", None):
        raise ValueError(f"preconditioner must be 'kronecker' or None, got {options.preconditioner!r}")


WHOLE_NUMBERS = ("inner_steps", "rank", "max_tries", "power_steps", "seed")
NUMBERS = (
    "inner_learning_rate",
    "curvature_fraction",
    "inner_fraction",
    "damping",
    "accept_above",
    "cubic",
    "delta",
    "delta_relative",
)
OPTIONAL = ("rank", "delta_relative", "inner_learning_rate")


def _check_types(options: Options) -> None:
    for name in WHOLE_NUMBERS + NUMBERS:
        value = getattr(options, name)
        kinds = (int,) if name in WHOLE_NUMBERS else (int, float)
        if not (value is None and name in OPTIONAL) and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise ValueError(f"{name} must be a {'whole ' if name in WHOLE_NUMBERS else ''}number, got {value!r}")


def _check_ranges(options: Options) -> None:
    rules: list[tuple[str, bool, str]] = [
        ("inner_steps", options.inner_steps >= 1, "at least 1"),
        ("inner_learning_rate", options.inner_learning_rate is None or options.inner_learning_rate > 0, "positive"),
        ("rank", options.rank is None or options.rank >= 1, "at least 1, or None for the exact factor"),
        ("curvature_fraction", 0 < options.curvature_fraction <= 1, "in (0, 1]"),
        ("inner_fraction", 0 < options.inner_fraction <= 1, "in (0, 1]"),
        ("damping", 0 <= options.damping < math.inf, "a number from 0 up"),
        ("accept_above", 0 <= options.accept_above < 1, "in [0, 1)"),
        ("max_tries", options.max_tries >= 1, "at least 1"),
        ("cubic", 0 <= options.cubic < math.inf, "a number from 0 up"),
        ("delta", 0 < options.delta < math.inf, "positive"),
        ("delta_relative", options.delta_relative is None or options.delta_relative > 0, "positive, or None"),
        ("power_steps", options.power_steps >= 1, "at least 1"),
        ("momentum_candidates", _are_shares(options.momentum_candidates), "one or more shares in [0, 1)"),
        ("damping_candidates", _are_positive(options.damping_candidates), "one or more positive factors of λ"),
    ]
    for name, holds, rule in rules:
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {getattr(options, name)!r}")


def _order_rules(options: Options) -> list[tuple[bool, str]]:
    """What `order="sequential"` does not go together with, and why."""
    if options.order == "parallel":
        return []
    return [
        (
            options.local != "nonlinear" or options.blocks != "stage",
            "order='sequential' needs local='nonlinear' and blocks='stage'",
        ),
        (not options.adapt_damping, "order='sequential' needs adapt_damping=True, which tests the steps"),
        (
            options.decoupling is not None or options.adapt_decoupling,
            "in sequential order no decoupling (κ) is needed: leave decoupling and adapt_decoupling out",
        ),
        (
            any(options.momentum_candidates),
            "momentum_candidates need order='parallel': a stage cannot solve for a step that is then lengthened",
        ),
    ]


def _check_combinations(options: Options) -> None:
    nonlinear = options.local == "nonlinear"
    scalar, untested = options.curvature != "factor", not options.adapt_damping
    preconditioned = options.preconditioner is not None
    rules: list[tuple[bool, str]] = [
        *_order_rules(options),
        (
            nonlinear != (options.solver in NONLINEAR_SOLVERS),
            f"solver {options.solver!r} does not solve {options.local} local losses",
        ),
        (
            options.inner_fraction < 1 and options.solver != "gauss-newton",
            "inner_fraction needs solver='gauss-newton', which makes a model in every inner step",
        ),
        (
            options.wire is not None and scalar,
            "wire rounds the columns of curvature='factor', the others send few numbers",
        ),
        (nonlinear and scalar, "nonlinear local losses need curvature='factor'"),
        (preconditioned and scalar, "the Kronecker preconditioner needs curvature='factor'"),
        (preconditioned and options.solver != "cg", "the Kronecker preconditioner needs solver='cg'"),
        (
            options.cubic > 0 and options.solver not in CUBIC_SOLVERS,
            f"solver {options.solver!r} cannot minimise a cubic term",
        ),
        (
            options.decoupling is not None and scalar,
            "decoupling (κ) needs curvature='factor'; the other curvatures take delta",
        ),
        (options.adapt_decoupling and untested, "adapt_decoupling needs adapt_damping=True, which tests the steps"),
        (untested and len(options.damping_candidates) > 1, "several damping_candidates need adapt_damping=True"),
        (untested and any(options.momentum_candidates), "momentum_candidates need adapt_damping=True"),
        (options.damping == 0 and not untested, "adapt_damping needs a positive damping to adapt"),
    ]
    for broken, message in rules:
        if broken:
            raise ValueError(message)


def _are_positive(values: Sequence[float]) -> bool:
    return len(values) > 0 and all(0 < value < math.inf for value in values)


def _are_shares(values: Sequence[float]) -> bool:
    return len(values) > 0 and all(0 <= value < 1 for value in values)
