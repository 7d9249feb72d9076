"""Gauss-Newton steps on a local loss: what each quadratic is made of, and what a step that fails brings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor

from surmin.curvature.gauss_newton import GaussNewton
from surmin.curvature.input_moment import InputMomentCache
from surmin.curvature.moments import MeanDiagonal, Moments, estimate_moments
from surmin.seeds import draw_seed
from surmin.solvers.gauss_newton_descent import GaussNewtonDescent, _share
from surmin.solvers.kronecker import KroneckerConjugateGradient
from surmin.solvers.result import Reason, SolverResult
from surmin.stages.probe import all_equal
from surmin.surrogates.local_loss import LocalLoss
from surmin.surrogates.nonlinear import LossPoint, NonlinearLocalLoss
from surmin.surrogates.output_surrogate import QuadraticSurrogate
from tests.oracles import dense
from tests.solvers.local_losses import local_loss, top_of_a_network, underestimated


@dataclass(frozen=True)
class Quadratic:
    """One that conjugate gradient has minimised, with so many products and preconditioned by these moments."""

    damping: float
    step: Tensor
    products: int
    moments: Sequence[Moments]


@pytest.fixture
def quadratics(monkeypatch: pytest.MonkeyPatch) -> list[Quadratic]:
    """All that are minimised in a test."""
    minimised: list[Quadratic] = []
    solve = KroneckerConjugateGradient.solve

    def noted(solver: KroneckerConjugateGradient, loss: LocalLoss) -> SolverResult:
        result = solve(solver, loss)
        minimised.append(Quadratic(loss.damping, result.step, solver.steps, solver.moments))
        return result

    monkeypatch.setattr(KroneckerConjugateGradient, "solve", noted)
    return minimised


def test_every_quadratic_draws_samples_and_signs_of_its_own(
    quadratics: list[Quadratic], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, linearized = replace(local_loss("embedding", 0), seed=5), NonlinearLocalLoss.linearized
    drawn: list[tuple[float, int]] = []
    curvatures: list[GaussNewton] = []

    def noted(loss: NonlinearLocalLoss, point: LossPoint, fraction: float = 1.0, number: int = 0) -> GaussNewton:
        drawn.append((fraction, number))
        curvatures.append(linearized(loss, point, fraction, number))
        return curvatures[-1]

    monkeypatch.setattr(NonlinearLocalLoss, "linearized", noted)
    with torch.no_grad():
        GaussNewtonDescent(3, fraction=0.5).solve(loss)
        assert drawn == [(0.5, 0), (0.5, 1), (0.5, 2)]
        for number, (quadratic, curvature) in enumerate(zip(quadratics, curvatures, strict=True)):
            expected = estimate_moments(curvature, None, draw_seed(5, number))
            by_signs = [own for own in expected if isinstance(own, MeanDiagonal)]
            assert [own for own in quadratic.moments if isinstance(own, MeanDiagonal)] == by_signs != []


@pytest.mark.parametrize("name", ["tanh", "parameter-free"])
def test_the_first_moment_is_that_of_what_enters_the_first_layer_with_parameters(name: str) -> None:
    """On all samples it is what the block itself would find, also above layers without parameters."""
    loss = local_loss(name, 0)
    with torch.no_grad():
        own = GaussNewtonDescent(3).solve(loss)
        kept = GaussNewtonDescent(3, first_moment=InputMomentCache()).solve(loss)
    assert own.step.any()
    torch.testing.assert_close(kept.step, own.step)


def test_whether_the_first_moment_is_known_is_looked_at_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, looks, steps = local_loss("tanh", 0), Mock(wraps=all_equal), 4
    monkeypatch.setattr("surmin.curvature.input_moment.all_equal", looks)
    with torch.no_grad():
        GaussNewtonDescent(steps, first_moment=InputMomentCache()).solve(loss)
    assert 0 < looks.call_count < steps


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


def test_the_damping_that_a_failed_step_brought_goes_again_by_thirds(quadratics: list[Quadratic]) -> None:
    loss = top_of_a_network(1e-3)
    with torch.no_grad():
        GaussNewtonDescent(12, products=40).solve(underestimated(loss, 30))
    extras = [own.damping - loss.damping for own in quadratics]
    falls = [(before, after) for before, after in pairwise(extras) if after < before]
    assert falls
    assert all(after == pytest.approx(before / 3) for before, after in falls)


@pytest.mark.parametrize(
    ("damping", "times", "decides"),
    [(1e-6, 12.0, {"curvature", "fours"}), (1e-3, 1e4, {"damping", "fours"})],
)
def test_after_every_failed_step_the_damping_is_the_largest_of_three(
    damping: float, times: float, decides: set[str], quadratics: list[Quadratic]
) -> None:
    """λ, four times what there was above it, or the quadratic's curvature along the step, by its dense matrix."""
    loss = underestimated(top_of_a_network(damping), times)
    with torch.no_grad():
        curvature = loss.linearized(loss.at(loss.block.vector().zero_()))
        matrix = loss.inflation * dense(curvature.product, len(loss.block.vector()))
        GaussNewtonDescent(20, products=60).solve(loss)
    decided = set()
    for failed, following in pairwise(quadratics):
        before, after, move = failed.damping - damping, following.damping - damping, failed.step
        if after > before:
            along = float(move @ matrix @ move / (move @ move))
            candidates = {"damping": damping, "fours": 4 * before, "curvature": along}
            decided.add(max(candidates, key=lambda name: candidates[name]))
            assert after == pytest.approx(max(candidates.values()), rel=1e-4)
    assert decided == decides


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


@pytest.mark.parametrize(("share", "reason"), [(0.999, Reason.MAX_STEPS), (1.001, Reason.CONVERGED)])
def test_the_tolerance_is_a_part_of_the_local_loss_before_the_step(share: float, reason: Reason) -> None:
    loss = local_loss("tanh", 1)
    with torch.no_grad():
        values = [float(loss(GaussNewtonDescent(steps).solve(loss).step)) for steps in (1, 2)]
        gained = (values[0] - values[1]) / abs(values[0])
        assert gained > 0.01
        assert GaussNewtonDescent(2, tolerance=share * gained).solve(loss).reason is reason


def test_a_last_step_without_a_finite_loss_leaves_the_ones_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, at = local_loss("tanh", 1), NonlinearLocalLoss.at
    with torch.no_grad():
        first = GaussNewtonDescent(1).solve(loss)

    def no_further(loss: NonlinearLocalLoss, step: Tensor) -> LossPoint:
        point = at(loss, step)
        is_known = not step.any() or torch.equal(step, first.step)
        return point if is_known else replace(point, value=torch.full_like(point.value, torch.inf))

    monkeypatch.setattr(NonlinearLocalLoss, "at", no_further)
    with torch.no_grad():
        found = GaussNewtonDescent(2).solve(loss)
    assert torch.equal(found.step, first.step)
    assert float(found.decrease) == float(first.decrease) > 0


def test_where_nothing_would_change_no_other_step_is_tried(quadratics: list[Quadratic]) -> None:
    """At a minimum, without damping: it would be the same quadratic at the same damping."""
    loss = top_of_a_network(0.0)
    assert isinstance(loss.surrogate, QuadraticSurrogate)
    loss = replace(loss, surrogate=replace(loss.surrogate, gradient=torch.zeros_like(loss.surrogate.gradient)))
    with torch.no_grad():
        result = GaussNewtonDescent(8).solve(loss)
    assert not result.step.any() and len(quadratics) == 1


def test_a_quadratic_takes_three_products(quadratics: list[Quadratic]) -> None:
    loss = local_loss("tanh", 1)
    with torch.no_grad():
        GaussNewtonDescent(2).solve(loss)
    assert [own.products for own in quadratics] == [3, 3]
