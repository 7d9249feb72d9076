import weakref

import pytest
import torch
from torch import Tensor

from surmin.curvature.factor import FactorCurvature
from surmin.solvers.gauss_newton_descent import GaussNewtonDescent
from surmin.solvers.nonlinear import Adam, Lbfgs
from surmin.solvers.result import Reason
from surmin.surrogates.nonlinear import LossPoint, NonlinearLocalLoss
from tests.cases import BY_NAME
from tests.solvers.local_losses import local_loss
from tests.waves import block_expansions, local_loss_of

SOLVERS = {
    "lbfgs": lambda steps: Lbfgs(steps),
    "gauss-newton": lambda steps: GaussNewtonDescent(steps),
    "adam": lambda steps: Adam(steps, 1e-2),
}
by_solver = pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS.keys())


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


@by_solver
def test_the_network_s_parameters_stay_where_they_are(make) -> None:
    case = BY_NAME["tanh"]
    network = case.network()
    before = [p.detach().clone() for p in network.parameters()]
    (expansion,) = block_expansions([network], case, case.batch(), FactorCurvature(fraction=1), blocks="stage")
    loss = local_loss_of(expansion, 6).damped(0.1)
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
    (expansion,) = block_expansions([network], case, (inputs, targets), FactorCurvature(fraction=1), blocks="stage")
    loss = local_loss_of(expansion, 6).damped(0.1)
    with torch.no_grad():
        assert make(3).solve(loss).reason is Reason.NON_FINITE


@by_solver
def test_a_stationary_block_stays(make) -> None:
    """Targets equal to the outputs: no gradient, no step."""
    case = BY_NAME["softplus"]
    network = case.network()
    inputs, _ = case.batch()
    batch = (inputs, network(inputs).detach())
    (expansion,) = block_expansions([network], case, batch, FactorCurvature(fraction=1), blocks="stage")
    loss = local_loss_of(expansion, 6).damped(0.1)
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
