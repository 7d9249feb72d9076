"""A solver of the user's own, given as an object."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surmin import CrossEntropy, SurrogateMinimizer
from surmin.options import Options
from surmin.options.presets import resolve_options
from surmin.solvers.conjugate_gradient import ConjugateGradient
from surmin.solvers.nonlinear import Lbfgs
from surmin.solvers.result import SolverResult, checked_result, finish
from surmin.stages.partition import partition
from surmin.surrogates.local_loss import LocalLoss


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(40, 4, dtype=torch.float64), torch.randint(3, (40,))


def trained(**options: Any) -> list[Tensor]:
    model = network()
    sm = SurrogateMinimizer(partition(model, 2), CrossEntropy(), **options)
    for _ in range(4):
        assert sm.step(*batch()).accepted
    return [parameter.detach() for parameter in model.parameters()]


class Own:
    """A solver without words of its own."""

    def __init__(self, result: Callable[[LocalLoss], object]) -> None:
        self.solve = result


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"solver": ConjugateGradient(5)}, {"solver": "cg", "inner_steps": 5, "preconditioner": None}),
        (
            {"preset": "trips", "local": "nonlinear", "solver": Lbfgs(5)},
            {"preset": "trips", "solver": "lbfgs", "inner_steps": 5},
        ),
    ],
    ids=["quadratic", "nonlinear"],
)
def test_an_object_solves_as_the_solver_of_that_name(own: dict[str, Any], named: dict[str, Any]) -> None:
    for mine, other in zip(trained(**own), trained(**named), strict=True):
        assert torch.equal(mine, other)


def test_its_products_are_counted_as_work() -> None:
    def report(steps: int) -> float:
        sm = SurrogateMinimizer(partition(network(), 2), CrossEntropy(), solver=ConjugateGradient(steps))
        return sm.step(*batch()).gradient_equivalents

    assert report(7) > report(2)


def result(step: Tensor, decrease: Tensor | None = None) -> SolverResult:
    return finish(step, step.new_ones(()) if decrease is None else decrease)


@pytest.mark.parametrize(
    ("solve", "error", "message"),
    [
        (
            lambda loss: loss.gradient,
            TypeError,
            "Own.solve must return a surmin.solvers.result.SolverResult, got Tensor",
        ),
        (lambda loss: result(-loss.gradient[1:]), ValueError, r"Own.solve must return a step of shape \(30,\)"),
        (lambda loss: result(-loss.gradient.float()), ValueError, r"torch.float64 on \S+, got \(30,\), torch.float32"),
        (
            lambda loss: result(-loss.gradient, torch.ones(1)),
            ValueError,
            "Own.solve must return its decrease and its code as 0-dimensional tensors",
        ),
        (
            lambda loss: SolverResult(-loss.gradient, 0.5, 0),  # type: ignore[arg-type]
            TypeError,
            "must return step, decrease and code as tensors, got Tensor, float, int",
        ),
    ],
    ids=["type", "shape", "dtype", "decrease", "numbers"],
)
def test_what_is_no_result_is_refused_and_nothing_changes(
    solve: Callable[[LocalLoss], object], error: type[Exception], message: str
) -> None:
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    sm = SurrogateMinimizer(partition(model, 2), CrossEntropy(), solver=Own(solve))  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        sm.step(*batch())
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_a_code_of_its_own_shows_in_the_note() -> None:
    own = Own(lambda loss: SolverResult(-1e-3 * loss.gradient, loss.gradient.new_ones(()), torch.tensor(7)))
    report = SurrogateMinimizer(partition(network(), 2), CrossEntropy(), solver=own).step(*batch())  # type: ignore[arg-type]
    assert "solver code 7" in report.note


def test_a_step_that_requires_gradients_leaves_no_graph() -> None:
    def solve(loss: LocalLoss) -> SolverResult:
        step = (-1e-2 * loss.gradient).requires_grad_()
        return result(step, (1e-2 * loss.gradient).square().sum())

    options: dict[str, Any] = {"momentum_candidates": (0.5,), "accept_above": 0.0}
    sm = SurrogateMinimizer(partition(network(), 2), CrossEntropy(), solver=Own(solve), **options)
    for _ in range(2):
        assert sm.step(*batch()).accepted
    assert not any(step.requires_grad for step in sm.state_dict()["previous_step"].values())


def test_a_decrease_that_requires_gradients_leaves_no_graph() -> None:
    step = torch.zeros(2)
    given = SolverResult(step, torch.ones(()).requires_grad_(), torch.tensor(0))
    assert not checked_result(given, Own(lambda loss: given), 2, step).decrease.requires_grad


@pytest.mark.parametrize(
    ("local", "solver"), [("quadratic", Lbfgs(5)), ("nonlinear", ConjugateGradient(5))], ids=["quadratic", "nonlinear"]
)
def test_a_solver_of_the_other_kind_is_refused(local: str, solver: Any) -> None:
    with pytest.raises(ValueError, match=f"{type(solver).__name__} does not solve {local} local losses"):
        resolve_options("compute", {"local": local, "solver": solver})


@pytest.mark.parametrize("solver", [ConjugateGradient, object(), 3], ids=["class", "object", "number"])
def test_what_is_no_solver_is_refused(solver: Any) -> None:
    with pytest.raises(ValueError, match=r"solver must be one of cg, .*, adam or a Solver or a NonlinearSolver, got"):
        resolve_options("compute", {"solver": solver})


def test_workers_compare_it_by_what_it_is() -> None:
    @dataclass(frozen=True)
    class Other:
        steps: int

        def solve(self, loss: LocalLoss) -> SolverResult:
            raise NotImplementedError

    own = [Own(result), Own(result)]  # both there: the second might be at the place of the first
    first, second = (Options(solver=solver).described() for solver in own)  # type: ignore[arg-type]
    assert first == second
    assert "solver=Own()" in Options(solver=Own(result), preconditioner=None).described()  # type: ignore[arg-type]
    assert Options(solver=Other(3)).described() != Options(solver=Other(4)).described()
