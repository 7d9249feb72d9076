"""Which values options may have, and which options go together."""

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import get_type_hints

from surmin.options import CUBIC_SOLVERS, NONLINEAR_SOLVERS, Options
from surmin.value_types import check_types

MOST_CANDIDATES = 16


def check_options(options: Options) -> None:
    """Raise ValueError for the first thing that is not possible, saying what is."""
    check_types(vars(options), get_type_hints(Options))
    _check_ranges(options)
    _check_combinations(options)


def check_effects(options: Options, given: Mapping[str, object], preset: Options) -> None:
    """Raise ValueError for a given option that differs from the preset's and changes nothing beside the others."""
    for beside, idle in _idle_options(options).items():
        for name in idle:
            if name in given and given[name] != getattr(preset, name):
                raise ValueError(f"{name} has no effect with {beside}: leave it out")


def _idle_options(options: Options) -> dict[str, tuple[str, ...]]:
    """What has no effect, by the choice that makes it so."""
    factor, solver = options.curvature == "factor", options.solver
    own = not isinstance(solver, str)
    idle: dict[str, tuple[str, ...]] = {}
    if factor:
        idle["curvature='factor'"] = ("delta", "delta_relative", "power_steps", "eigenvalue", "hessian_products")
    else:
        thinned = ("curvature_fraction",) if options.curvature_fraction < 1 else ()
        idle[f"curvature={options.curvature!r}"] = ("rank", "top_factor", *thinned)
    if options.delta_relative is not None:
        idle["delta_relative"] = ("delta",)
    if not options.adapt_damping:
        idle["adapt_damping=False"] = ("accept_above", "max_tries")
    if own or solver not in ("gd", "gd-armijo", "adam"):
        name = "a solver of your own" if own else f"solver={solver!r}"
        idle[name] = ("inner_learning_rate", *(["inner_steps"] if own else []))
    return idle


def _check_ranges(options: Options) -> None:
    rules: list[tuple[str, bool, str]] = [
        ("inner_steps", options.inner_steps >= 1, "at least 1"),
        (
            "inner_learning_rate",
            options.inner_learning_rate is None or 0 < options.inner_learning_rate < math.inf,
            "positive",
        ),
        ("rank", options.rank is None or options.rank >= 1, "at least 1, or None for the exact factor"),
        ("curvature_fraction", 0 < options.curvature_fraction <= 1, "in (0, 1]"),
        ("inner_fraction", options.inner_fraction is None or 0 < options.inner_fraction <= 1, "in (0, 1], or None"),
        ("inner_tolerance", 0 <= options.inner_tolerance < 1, "in [0, 1)"),
        ("damping", 0 <= options.damping < math.inf, "a number from 0 up"),
        ("accept_above", 0 <= options.accept_above < 1, "in [0, 1)"),
        ("max_tries", options.max_tries >= 1, "at least 1"),
        ("cubic", 0 <= options.cubic < math.inf, "a number from 0 up"),
        ("delta", 0 < options.delta < math.inf, "positive"),
        (
            "delta_relative",
            options.delta_relative is None or 0 < options.delta_relative < math.inf,
            "positive, or None",
        ),
        ("power_steps", options.power_steps >= 1, "at least 1"),
        ("momentum_candidates", _are_shares(options.momentum_candidates), "one or more shares in [0, 1)"),
        (
            "damping_candidates",
            _are_positive(options.damping_candidates),
            f"1 to {MOST_CANDIDATES} positive factors of λ",
        ),
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
            "in sequential order no decoupling (κ) is needed: leave out decoupling and adapt_decoupling",
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
    named = isinstance(options.solver, str)
    rules: list[tuple[bool, str]] = [
        *_order_rules(options),
        (
            named and nonlinear != (options.solver in NONLINEAR_SOLVERS),
            f"solver {options.solver!r} does not solve {options.local} local losses",
        ),
        (
            (options.inner_fraction != 1 or options.inner_tolerance > 0) and options.solver != "gauss-newton",
            "inner_fraction and inner_tolerance need solver='gauss-newton' (of preset 'trips')",
        ),
        (
            options.wire is not None and scalar,
            "wire rounds the columns of curvature='factor', other curvatures send few numbers",
        ),
        (
            not named and _takes_start(options.solver) != nonlinear,
            f"{type(options.solver).__name__} does not solve {options.local} local losses: quadratic ones are solved "
            "by solve(loss), nonlinear ones by solve(loss, start)",
        ),
        (nonlinear and scalar, "nonlinear local losses need curvature='factor'"),
        (preconditioned and scalar, "the Kronecker preconditioner needs curvature='factor'"),
        (preconditioned and options.solver != "cg", "the Kronecker preconditioner needs solver='cg'"),
        (
            options.cubic > 0 and named and options.solver not in CUBIC_SOLVERS,
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


def _takes_start(solver: object) -> bool:
    return "start" in signature(solver.solve).parameters  # type: ignore[attr-defined]


def _are_positive(values: Sequence[float]) -> bool:
    return 0 < len(values) <= MOST_CANDIDATES and all(0 < value < math.inf for value in values)


def _are_shares(values: Sequence[float]) -> bool:
    return len(values) > 0 and all(0 <= value < 1 for value in values)
