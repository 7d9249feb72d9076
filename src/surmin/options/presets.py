"""Presets of options, and how explicit options override them."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from surmin.errors import did_you_mean
from surmin.options import CUBIC_SOLVERS, NONLINEAR_SOLVERS, Options, SolverName
from surmin.options.rules import check_effects, check_options
from surmin.solvers.nonlinear import NonlinearSolver
from surmin.solvers.result import Solver

PRESETS: Mapping[str, Options] = {
    "compute": Options(),
    "links": Options(curvature_fraction=0.15, accept_above=0.1, momentum_candidates=(0.3,), wire="int8"),
    "trips": Options(
        blocks="stage", local="nonlinear", order="sequential", solver="gauss-newton", inner_steps=20,
        preconditioner=None, curvature_fraction=1.0, inner_fraction=None, inner_tolerance=0.02, damping=1e-3,
        accept_above=0.0, damping_candidates=(0.1, 1.0), momentum_candidates=(0.0, 0.3, 0.6),
    ),
    "paper": Options(
        curvature="scalar", inner_steps=20, preconditioner=None, curvature_fraction=1.0, damping=0.0,
        adapt_damping=False, adapt_decoupling=False, momentum_candidates=(0.0,),
    ),
}  # fmt: skip


def resolve_options(preset: str, given: Mapping[str, Any]) -> Options:
    """A preset overridden by explicit options; preset values that these rule out become neutral.

    Raises:
        ValueError: for an unknown preset or option, a value out of range, or options that do not go together.
    """
    if preset not in PRESETS:
        raise ValueError(
            f"unknown preset {preset!r}: {did_you_mean(preset, PRESETS)}choose one of {', '.join(PRESETS)}"
        )
    known = {option.name for option in fields(Options)}
    for name in given:
        if name not in known:
            raise ValueError(f"unknown option {name!r}: {did_you_mean(name, known)}see surmin.options.Options for all")
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    options = replace(PRESETS[preset], **given)
    if "solver" not in given:
        options = replace(options, solver=_default_solver(options))
    gives_way: dict[str, Any] = {}
    if options.local != "nonlinear" or options.blocks != "stage":
        gives_way["order"] = "parallel"
    elif options.order == "sequential":
        gives_way |= {"adapt_decoupling": False, "momentum_candidates": (0.0,)}
    if options.solver != "cg":
        gives_way["preconditioner"] = None
    if options.solver != "gauss-newton":
        gives_way |= {"inner_fraction": 1.0, "inner_tolerance": 0.0}
    if options.curvature != "factor":
        gives_way |= {"preconditioner": None, "wire": None, "adapt_decoupling": False}
    if not options.adapt_damping:
        gives_way |= {"order": "parallel", "adapt_decoupling": False}
        gives_way |= {"damping_candidates": (1.0,), "momentum_candidates": (0.0,)}
    options = replace(options, **{name: value for name, value in gives_way.items() if name not in given})
    check_options(options)
    check_effects(options, given, PRESETS[preset])
    return options


def _default_solver(options: Options) -> SolverName | Solver | NonlinearSolver:
    """The preset's solver if it solves this kind of local loss, otherwise the usual one for it."""
    if options.local == "nonlinear":
        return options.solver if options.solver in NONLINEAR_SOLVERS else "gauss-newton"
    if options.cubic:
        return options.solver if options.solver in CUBIC_SOLVERS else "cubic-krylov"
    return "cg" if options.solver in NONLINEAR_SOLVERS else options.solver
