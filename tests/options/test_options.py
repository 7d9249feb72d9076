import math
from typing import Any, get_args

import numpy as np
import pytest

import surmin.options as options_module
from surmin.options import Options, OptionValues, SolverName
from surmin.options.presets import PRESETS, resolve_options
from surmin.solvers.result import SolverResult
from surmin.surrogates.local_loss import LocalLoss

SEQUENTIAL = {"local": "nonlinear", "blocks": "stage", "order": "sequential"}


def test_presets() -> None:
    compute, trips, paper = (resolve_options(name, {}) for name in ("compute", "trips", "paper"))
    assert (compute.curvature, compute.local, compute.solver, compute.preconditioner) == (
        "factor", "quadratic", "cg", "kronecker",
    )  # fmt: skip
    assert compute.adapt_damping and compute.curvature_fraction < 1 and compute.damping > 0
    assert (trips.local, trips.order) == ("nonlinear", "sequential") and len(trips.damping_candidates) > 1
    assert (paper.curvature, paper.solver, paper.damping, paper.cubic) == ("scalar", "cg", 0.0, 0.0)
    assert not paper.adapt_damping and paper.preconditioner is None and paper.blocks == "layer"
    assert set(PRESETS) == {"compute", "links", "trips", "paper"}


def test_every_option_can_be_given_as_a_keyword() -> None:
    assert set(OptionValues.__annotations__) == set(Options.__annotations__)


def test_numbers_of_numpy_are_numbers() -> None:
    given = {"inner_steps": np.int64(7), "seed": np.uint8(3), "damping": np.float32(0.5)}
    resolved = resolve_options("compute", given)
    assert [type(getattr(resolved, name)) for name in given] == [int, int, float]
    assert resolved == resolve_options("compute", {"inner_steps": 7, "seed": 3, "damping": 0.5})


def test_explicit_options_override_the_preset() -> None:
    resolved = resolve_options("trips", {"inner_steps": 7, "seed": 3, "damping": 0.5})
    assert (resolved.inner_steps, resolved.seed, resolved.damping) == (7, 3, 0.5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"curvature": "scalar"}, {"preconditioner": None, "adapt_decoupling": False, "solver": "cg"}),
        ({"curvature": "sample"}, {"preconditioner": None, "adapt_decoupling": False}),
        ({"cubic": 0.5}, {"solver": "cubic-krylov", "preconditioner": None}),
        ({"solver": "gd"}, {"preconditioner": None}),
        ({"adapt_damping": False}, {"adapt_decoupling": False, "momentum_candidates": (0.0,)}),
    ],
)
def test_what_a_preset_only_has_for_its_own_choices_gives_way(given: dict[str, Any], expected: dict[str, Any]) -> None:
    resolved = resolve_options("compute", given)
    assert {name: getattr(resolved, name) for name in expected} == expected


def test_a_solver_of_the_other_kind_gives_way_to_one_that_fits() -> None:
    nonlinear = resolve_options("compute", {"local": "nonlinear"})
    assert nonlinear.solver in options_module.NONLINEAR_SOLVERS and nonlinear.preconditioner is None
    assert resolve_options("trips", {"local": "quadratic"}).solver == "cg"
    assert resolve_options("trips", {"local": "quadratic"}).order == "parallel"
    assert resolve_options("trips", {"local": "quadratic", "cubic": 1.0}).solver == "cubic-krylov"


@pytest.mark.parametrize(
    ("name", "suggestion"), [("inner_step", "inner_steps"), ("dampings", "damping"), ("curvture", "curvature")]
)
def test_an_unknown_option_gets_a_suggestion(name: str, suggestion: str) -> None:
    with pytest.raises(ValueError, match=f"unknown option '{name}': did you mean '{suggestion}'"):
        resolve_options("compute", {name: 1})


def test_an_unknown_option_unlike_any_other() -> None:
    with pytest.raises(ValueError, match=r"^unknown option 'zzz': see surmin.options.Options for all$"):
        resolve_options("compute", {"zzz": 1})


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown preset 'fast': choose one of compute, links, trips, paper"):
        resolve_options("fast", {})


@pytest.mark.parametrize("name", ["curvature", "blocks", "local", "order", "solver", "top_factor", "eigenvalue"])
def test_an_unknown_choice_names_those_there_are(name: str) -> None:
    kind = Options.__annotations__[name]
    every = ", ".join(get_args(SolverName if name == "solver" else kind))
    own = " or a Solver or a NonlinearSolver" if name == "solver" else ""
    with pytest.raises(ValueError, match=f"{name} must be one of {every}{own}, got 'zzz'"):
        resolve_options("compute", {name: "zzz"})


def test_an_unknown_wire() -> None:
    with pytest.raises(ValueError, match="wire must be one of bfloat16, float16, int8 or None, got 'int4'"):
        resolve_options("compute", {"wire": "int4"})
    with pytest.raises(ValueError, match="wire rounds the columns of curvature='factor'"):
        resolve_options("paper", {"wire": "bfloat16"})
    assert resolve_options("links", {"curvature": "sample"}).wire is None


def test_an_unknown_preconditioner() -> None:
    with pytest.raises(ValueError, match="preconditioner must be 'kronecker' or None, got 'jacobi'"):
        resolve_options("compute", {"preconditioner": "jacobi"})


RANGES: list[tuple[str, list[Any], list[Any]]] = [
    ("inner_steps", [0, -1], [1]),
    ("inner_learning_rate", [0.0, -1.0, math.nan], [1e-3]),
    ("rank", [0, -2], [None, 1]),
    ("curvature_fraction", [0.0, -0.1, 1.1, math.nan], [0.01, 1]),
    ("inner_fraction", [0.0, -0.1, 1.1, math.nan], [1.0]),
    ("inner_tolerance", [-0.1, 1.0, math.nan], [0.0]),
    ("damping", [-1.0, math.inf, math.nan], [1e-3]),
    ("accept_above", [-0.1, 1.0, math.nan], [0.0, 0.9]),
    ("max_tries", [0], [1]),
    ("delta", [0.0, -1.0, math.inf, math.nan], [0.1]),
    ("delta_relative", [0.0, -1.0, math.nan], [None, 0.5]),
    ("power_steps", [0], [1]),
    ("damping_candidates", [(), (0.0,), (1.0, -1.0), (math.inf,), (math.nan,), (1.0,) * 17], [(0.5, 1.0), (1.0,) * 16]),
    ("cubic", [-1.0, math.inf, math.nan], [0.0]),
    ("momentum_candidates", [(), (-0.1,), (1.0,), (math.nan,)], [(0.0,), (0.0, 0.9)]),
]


NEEDED: dict[str, dict[str, Any]] = {
    "inner_learning_rate": {"solver": "gd"},
    **{name: {"curvature": "scalar"} for name in ("delta", "delta_relative", "power_steps")},
}


@pytest.mark.parametrize(("name", "bad", "good"), RANGES, ids=[row[0] for row in RANGES])
def test_values_out_of_range_are_named(name: str, bad: list[Any], good: list[Any]) -> None:
    for value in bad:
        with pytest.raises(ValueError, match=f"^{name} must be "):
            resolve_options("compute", {name: value})
    for value in good:
        assert getattr(resolve_options("compute", {name: value, **NEEDED.get(name, {})}), name) == value


class Own:
    def solve(self, loss: LocalLoss) -> SolverResult:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("preset", "given", "message"),
    [
        ("compute", {"delta": 0.1}, "delta has no effect with curvature='factor': leave it out"),
        (
            "compute",
            {"hessian_products": "finite-difference"},
            "hessian_products has no effect with curvature='factor'",
        ),
        ("paper", {"rank": 2}, "rank has no effect with curvature='scalar'"),
        ("compute", {"curvature": "sample", "curvature_fraction": 0.5}, "curvature_fraction has no effect with curv"),
        ("paper", {"delta": 0.1, "delta_relative": 0.1}, "delta has no effect with delta_relative"),
        ("paper", {"accept_above": 0.1}, "accept_above has no effect with adapt_damping=False"),
        ("compute", {"inner_learning_rate": 0.1}, "inner_learning_rate has no effect with solver='cg'"),
        ("compute", {"solver": Own(), "inner_steps": 7}, "inner_steps has no effect with a solver of your own"),
    ],
)
def test_options_without_effect_are_refused(preset: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_options(preset, given)


def test_an_option_without_effect_may_have_the_value_that_it_has_anyway() -> None:
    assert resolve_options("paper", {"curvature_fraction": 1, "rank": None}) == resolve_options("paper", {})
    assert resolve_options("compute", {"delta": 1.0}) == resolve_options("compute", {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"solver": "lbfgs"}, "solver 'lbfgs' does not solve quadratic local losses"),
        ({"order": "sequential"}, "order='sequential' needs local='nonlinear' and blocks='stage'"),
        ({**SEQUENTIAL, "adapt_damping": False}, "order='sequential' needs adapt_damping=True"),
        ({**SEQUENTIAL, "adapt_decoupling": True}, "in sequential order no decoupling"),
        ({**SEQUENTIAL, "decoupling": [2.0, 2.0]}, "in sequential order no decoupling"),
        ({**SEQUENTIAL, "momentum_candidates": (0.5,)}, "momentum_candidates need order='parallel'"),
        ({"solver": "cg", "local": "nonlinear"}, "solver 'cg' does not solve nonlinear local losses"),
        ({"local": "nonlinear", "curvature": "scalar"}, "nonlinear local losses need curvature='factor'"),
        ({"inner_fraction": 0.5}, "inner_fraction and inner_tolerance need solver='gauss-newton'"),
        ({"inner_tolerance": 0.1}, "inner_fraction and inner_tolerance need solver='gauss-newton'"),
        ({"preconditioner": "kronecker", "curvature": "sample"}, "needs curvature='factor'"),
        ({"preconditioner": "kronecker", "solver": "gd"}, "needs solver='cg'"),
        ({"cubic": 1.0, "solver": "cg"}, "solver 'cg' cannot minimise a cubic term"),
        ({"cubic": 1.0, "local": "nonlinear"}, "cannot minimise a cubic term"),
        ({"decoupling": [2.0, 2.0], "curvature": "scalar"}, "needs curvature='factor'"),
        ({"adapt_decoupling": True, "adapt_damping": False}, "adapt_decoupling needs adapt_damping=True"),
        ({"damping_candidates": (0.5, 1.0), "adapt_damping": False}, "need adapt_damping=True"),
        ({"momentum_candidates": (0.0, 0.5), "adapt_damping": False}, "momentum_candidates need adapt_damping=True"),
        ({"damping": 0.0}, "adapt_damping needs a positive damping"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_say_why(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_options("compute", given)


@pytest.mark.parametrize(
    ("name", "value"), [("inner_steps", 2.5), ("rank", "two"), ("seed", 1.0), ("damping", "x"), ("max_tries", True)]
)
def test_numbers_must_be_numbers(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a .*number( or None)?, got"):
        resolve_options("compute", {name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapt_damping": "no"}, "adapt_damping must be True or False"),
        ({"damping_candidates": 2.0}, "damping_candidates must be a sequence of numbers"),
        ({"momentum_candidates": ("a",)}, "momentum_candidates must be a sequence of numbers"),
        ({"decoupling": 2.0}, "decoupling must be a sequence of numbers"),
        ({"delta_relative": float("inf")}, "delta_relative must be positive"),
    ],
)
def test_options_of_other_types_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_options("compute", options)
