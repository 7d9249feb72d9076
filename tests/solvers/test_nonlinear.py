from itertools import pairwise

import pytest
import torch

from surmin.curvature.factor import FactorCurvature
from surmin.solvers.nonlinear import Adam, GaussNewtonDescent, Lbfgs
from surmin.solvers.result import Reason
from surmin.stages.partition import partition
from surmin.surrogates.nonlinear import NonlinearLocalLoss
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
    assert result.products > 0


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
    assert result.products == 3 * (last + 1)
    assert float(loss(result.step)) == pytest.approx(values[last + 1], rel=1e-9)
