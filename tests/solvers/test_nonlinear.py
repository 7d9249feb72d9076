import math
import weakref
from dataclasses import dataclass, replace
from itertools import pairwise
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.moments import InputMomentCache
from surmin.curvature.output_curvature import Message
from surmin.solvers.gauss_newton_descent import GaussNewtonDescent, Model, _share
from surmin.solvers.nonlinear import Adam, Lbfgs
from surmin.solvers.result import Reason, SolverResult
from surmin.stages.partition import partition
from surmin.stages.probe import all_equal
from surmin.surrogates.nonlinear import LossPoint, NonlinearLocalLoss
from surmin.surrogates.output_surrogate import QuadraticSurrogate
from tests.cases import BY_NAME
from tests.waves import block_waves, local_loss_of

SOLVERS = {
    "lbfgs": lambda steps: Lbfgs(steps),
    "gauss-newton": lambda steps: GaussNewtonDescent(steps),
    "adam": lambda steps: Adam(steps, 1e-2),
}
by_solver = pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS.keys())


def local_loss(name: str, index: int, *, fraction: float = 1, damping: float = 0.05) -> NonlinearLocalLoss:
    case = BY_NAME[name]
    curvature = FactorCurvature(fraction=fraction)
    waves = block_waves(partition(case.network(), 2), case, case.batch(), curvature, blocks="stage")[index]
    samples = curvature.sample_count(6)
    loss = local_loss_of(waves, samples)
    return loss.inflated(2.0).damped(damping)


@by_solver
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", ["relu", "tanh", "convolution", "embedding", "attention", "frozen"])
def test_every_solver_decreases_the_local_loss(name: str, index: int, make) -> None:
    loss = local_loss(name, index, fraction=0.5)
    with torch.no_grad():  # as the minimizer calls it
        result = make(8).solve(loss)
    assert result.reason is Reason.MAX_STEPS
    torch.testing.assert_close(result.decrease, -loss.damped(0.0)(result.step))
    assert result.decrease > 0
    assert loss(result.step) < 0


@by_solver
def test_more_steps_reach_a_stationary_point(make) -> None:
    loss = local_loss("tanh", 1)
    with torch.no_grad():
        short, long = make(3).solve(loss), make(400).solve(loss)
    assert loss(long.step) < loss(short.step)
    _, start = loss.value_and_gradient(torch.zeros_like(long.step))
    _, end = loss.value_and_gradient(long.step)
    assert end.norm() < 1e-3 * start.norm()


def test_lbfgs_and_gauss_newton_agree_on_the_minimum() -> None:
    for name in ("tanh", "softplus"):
        loss = local_loss(name, 1)
        with torch.no_grad():
            left, right = Lbfgs(300).solve(loss), GaussNewtonDescent(80).solve(loss)
        torch.testing.assert_close(loss(left.step), loss(right.step), rtol=1e-6, atol=1e-10)


def test_no_limit_of_evaluations_cuts_ordinary_l_bfgs_iterations_short() -> None:
    loss = local_loss("tanh", 1)
    step = loss.block.vector().zero_().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [step], max_iter=8, max_eval=1000, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        value, step.grad = loss.value_and_gradient(step.detach())
        return value

    optimizer.step(closure)
    with torch.no_grad():
        result = Lbfgs(8).solve(loss)
    torch.testing.assert_close(result.step, step.detach())


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_nothing_recorded_at_the_beginning_fills_memory_through_the_solve(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, points, alive = local_loss("tanh", 1), [], []
    at, evaluate = NonlinearLocalLoss.at, NonlinearLocalLoss.value_and_gradient

    def noted(loss: NonlinearLocalLoss, step: Tensor) -> LossPoint:
        point = at(loss, step)
        points.append(weakref.ref(point))
        return point

    def looked_at(loss: NonlinearLocalLoss, step: Tensor) -> tuple[Tensor, Tensor]:
        alive.append(any(point() is not None for point in points))
        return evaluate(loss, step)

    monkeypatch.setattr(NonlinearLocalLoss, "at", noted)
    monkeypatch.setattr(NonlinearLocalLoss, "value_and_gradient", looked_at)
    with torch.no_grad():
        SOLVERS[name](3).solve(loss, 0.01 * torch.ones_like(loss.block.vector()))
    assert points and alive and not any(alive)


def test_whether_the_first_moment_is_known_is_looked_at_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, looks, steps = local_loss("tanh", 0), Mock(wraps=all_equal), 4
    monkeypatch.setattr("surmin.curvature.moments.all_equal", looks)
    with torch.no_grad():
        GaussNewtonDescent(steps, first_moment=InputMomentCache()).solve(loss)
    assert 0 < looks.call_count < steps


@by_solver
def test_the_network_s_parameters_stay_where_they_are(make) -> None:
    case = BY_NAME["tanh"]
    network = case.network()
    before = [p.detach().clone() for p in network.parameters()]
    (waves,) = block_waves([network], case, case.batch(), FactorCurvature(fraction=1), blocks="stage")
    loss = local_loss_of(waves, 6).damped(0.1)
    with torch.no_grad():
        make(3).solve(loss)
    assert all(torch.equal(p, kept) for p, kept in zip(network.parameters(), before, strict=True))
    assert all(p.grad is None for p in network.parameters())


@by_solver
def test_a_loss_that_is_not_finite_is_named(make) -> None:
    case = BY_NAME["softplus"]
    network = case.network()
    inputs, targets = case.batch()
    with torch.no_grad():
        network[0].weight.fill_(float("nan"))
    (waves,) = block_waves([network], case, (inputs, targets), FactorCurvature(fraction=1), blocks="stage")
    loss = local_loss_of(waves, 6).damped(0.1)
    with torch.no_grad():
        assert make(3).solve(loss).reason is Reason.NON_FINITE


@by_solver
def test_a_stationary_block_stays(make) -> None:
    """Targets equal to the outputs: no gradient, no step."""
    case = BY_NAME["softplus"]
    network = case.network()
    inputs, _ = case.batch()
    batch = (inputs, network(inputs).detach())
    (waves,) = block_waves([network], case, batch, FactorCurvature(fraction=1), blocks="stage")
    loss = local_loss_of(waves, 6).damped(0.1)
    with torch.no_grad():
        result = make(3).solve(loss)
    assert not result.step.any()
    assert result.reason is Reason.NO_DECREASE


@by_solver
def test_a_start_is_used_where_it_is_better(make) -> None:
    loss = local_loss("tanh", 1)
    with torch.no_grad():
        first = make(3).solve(loss)
        continued = make(3).solve(loss, first.step)
    assert loss(continued.step) < loss(first.step)
    torch.testing.assert_close(continued.decrease, -loss.damped(0.0)(continued.step))


@by_solver
def test_a_start_that_is_worse_changes_nothing(make) -> None:
    loss = local_loss("tanh", 1)
    with torch.no_grad():
        usual = make(3).solve(loss)
        worse = -10 * usual.step
        assert loss(worse) > 0
        started = make(3).solve(loss, worse)
    assert torch.equal(started.step, usual.step)


@dataclass(frozen=True)
class Underestimated(QuadraticSurrogate):
    """A quadratic that says it has only a part of its curvature."""

    times: float = 4

    def columns(self, output: Tensor, fraction: float, seed: int) -> Message:
        columns, *rows = super().columns(output, fraction, seed)
        return columns / self.times**0.5, *rows


def top_of_a_network(damping: float) -> NonlinearLocalLoss:
    """The local loss of a last stage that is one layer: a quadratic."""
    case = BY_NAME["relu"]
    waves = block_waves(partition(case.network(), 4), case, case.batch(), FactorCurvature(fraction=1), blocks="stage")
    assert [type(module) for module in case.network()[-1:]] == [nn.Linear]
    return local_loss_of(waves[-1], 6).damped(damping)


def underestimated(loss: NonlinearLocalLoss, times: float) -> NonlinearLocalLoss:
    assert isinstance(loss.surrogate, QuadraticSurrogate)
    return replace(loss, surrogate=Underestimated(**vars(loss.surrogate), times=times))


def test_a_step_that_fails_is_shortened_to_where_the_loss_is_least() -> None:
    """On a quadratic: what underestimates the curvature four times makes a step four times too long."""
    loss = top_of_a_network(1e-12)
    steep = underestimated(loss, 4)
    solver = GaussNewtonDescent(1, products=40)
    with torch.no_grad():
        right, shortened = solver.solve(loss), solver.solve(steep)
    assert loss(4 * right.step) > 0
    torch.testing.assert_close(shortened.step, right.step, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("damping", [1e-9, 1e-12])
def test_next_to_no_damping_costs_no_steps(damping: float) -> None:
    """A step thirty times too long is still too long when it is cut; the next ones have damping that matters.

    Raised by fours from 1e-12, λ would need twenty steps to get there.
    """
    loss = top_of_a_network(damping)
    steep = underestimated(loss, 30)
    with torch.no_grad():
        first, last = (GaussNewtonDescent(steps, products=40).solve(steep) for steps in (1, 5))
        least = GaussNewtonDescent(1, products=40).solve(loss)
    assert not first.step.any()
    assert 0 < float(last.decrease) < float(least.decrease)


def test_the_damping_after_a_failed_step_is_the_quadratic_s_curvature_along_it() -> None:
    """Found from outside, with dense matrices: both steps of a solve whose first one fails, cut as far as it goes."""
    loss = underestimated(top_of_a_network(1e-3), 30)
    with torch.no_grad():
        point = loss.at(loss.block.vector().zero_())
        gradient = loss.gradient(point)
        product = loss.linearized(point).product
        matrix = torch.stack([product(row) for row in torch.eye(len(gradient), dtype=gradient.dtype)])
        identity = torch.eye(len(gradient), dtype=gradient.dtype)
        failed = -torch.linalg.solve(matrix + loss.damping * identity, gradient)
        extra = failed @ matrix @ failed / (failed @ failed)
        assert extra > loss.damping
        second = -torch.linalg.solve(matrix + (loss.damping + extra) * identity, gradient)
        found = GaussNewtonDescent(2, products=200).solve(loss).step
    share = float(found.dot(second) / second.dot(second))
    assert 0.1 - 1e-9 <= share <= 0.5
    torch.testing.assert_close(found, share * second, rtol=1e-6, atol=1e-9)


def test_the_damping_that_a_failed_step_brought_goes_again_by_thirds(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, dampings, make = top_of_a_network(1e-3), [], GaussNewtonDescent._model

    def recorded(solver: GaussNewtonDescent, loss: NonlinearLocalLoss, point: LossPoint, number: int) -> Model:
        minimise = make(solver, loss, point, number)

        def noted(gradient: Tensor, damping: float) -> SolverResult:
            dampings.append(damping)
            return minimise(gradient, damping)

        return noted

    monkeypatch.setattr(GaussNewtonDescent, "_model", recorded)
    with torch.no_grad():
        GaussNewtonDescent(12, products=40).solve(underestimated(loss, 30))
    extras = [damping - loss.damping for damping in dampings]
    falls = [(before, after) for before, after in pairwise(extras) if after < before]
    assert falls
    assert all(after == pytest.approx(before / 3) for before, after in falls)


@given(slope=st.floats(-1e3, -1e-3), change=st.floats(0, 1e3))
def test_a_failed_step_is_cut_at_the_parabola_s_least(slope: float, change: float) -> None:
    share = float(_share(torch.tensor(slope).double(), torch.tensor(change).double()))
    found = minimize_scalar(
        lambda t: slope * t + (change - slope) * t * t, bounds=(0.1, 0.5), method="bounded", options={"xatol": 1e-9}
    )
    assert share == pytest.approx(found.x, abs=1e-5)


@pytest.mark.parametrize("change", [math.inf, math.nan])
def test_a_failed_step_without_a_finite_loss_is_cut_most(change: float) -> None:
    assert float(_share(torch.tensor(-1.0), torch.tensor(change))) == pytest.approx(0.1)


def test_a_step_that_gains_less_than_the_tolerance_is_the_last() -> None:
    """Found from outside: with one step more each time, the first step whose gain is that little."""
    loss, tolerance = local_loss("tanh", 1), 0.1
    values = [0.0]
    with torch.no_grad():
        for steps in range(1, 13):
            values.append(float(loss(GaussNewtonDescent(steps).solve(loss).step)))
        result = GaussNewtonDescent(12, tolerance=tolerance).solve(loss)
    gains = [before - after for before, after in pairwise(values)]
    last = next(k for k, gain in enumerate(gains) if 0 < gain < tolerance * abs(values[k]))
    assert 0 < last < 11
    assert result.reason is Reason.CONVERGED
    assert float(loss(result.step)) == pytest.approx(values[last + 1], rel=1e-9)
