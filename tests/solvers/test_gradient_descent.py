from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surmin.solvers.gradient_descent import ArmijoGradientDescent, GradientDescent
from surmin.solvers.result import Reason
from surmin.surrogates.local_loss import LocalLoss
from tests.solvers.problems import quadratic, spectrum_problem, undamped_value

SPECTRUM = [-0.5, 0.1, 1.0, 3.0, 30.0]


@pytest.mark.parametrize("cubic", [0.0, 0.4])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_fixed_steps_are_algorithm_1(cubic: float, damping: float) -> None:
    """The damping term is taken at the new point: (1 + α λ) d' = d - α ∇(L - ½ λ‖·‖²)(d)."""
    matrix, gradient = spectrum_problem(SPECTRUM)
    loss = quadratic(matrix, gradient, inflation=2.0, cubic=cubic, damping=damping)
    result = GradientDescent(7, 0.01).solve(loss)
    step = torch.zeros_like(gradient)
    for _ in range(7):
        leaf = step.clone().requires_grad_()
        (slope,) = torch.autograd.grad(undamped_value(matrix, gradient, leaf, 2.0, cubic), leaf)
        slope = gradient if not step.any() else slope  # autograd of ‖0‖³ is not a number
        step = (step - 0.01 * slope) / (1 + 0.01 * damping)
    torch.testing.assert_close(result.step, step)
    torch.testing.assert_close(result.decrease, -undamped_value(matrix, gradient, step, 2.0, cubic))
    assert result.reason is Reason.MAX_STEPS


@pytest.mark.parametrize("damping", [1e2, 1e6])
def test_no_damping_makes_a_short_enough_step_too_long(damping: float) -> None:
    matrix, gradient = spectrum_problem(SPECTRUM)
    result = GradientDescent(50, 1 / max(SPECTRUM)).solve(quadratic(matrix, gradient, damping=damping))
    assert result.decrease > 0
    assert result.step.norm() < 2 * gradient.norm() / damping


def test_steps_that_are_too_long_say_that_nothing_was_gained() -> None:
    matrix, gradient = spectrum_problem(SPECTRUM)
    result = GradientDescent(7, 10 / max(SPECTRUM)).solve(quadratic(matrix, gradient))
    assert result.decrease < 0
    assert result.reason is Reason.NO_DECREASE


def trajectory(loss: LocalLoss, steps: int, learning_rate: float) -> list[Tensor]:
    """Iterates 0 … steps, each from a solver of its own."""
    zero = torch.zeros_like(loss.gradient)
    return [zero] + [ArmijoGradientDescent(k, learning_rate).solve(loss).step for k in range(1, steps + 1)]


@given(
    spectrum=st.lists(st.floats(-5, 50), min_size=2, max_size=6), seed=st.integers(0, 999), cubic=st.floats(0.01, 3),
    learning_rate=st.sampled_from([1e-3, 1.0, 1e3]),
)  # fmt: skip
def test_every_armijo_step_decreases_enough_and_no_longer_one_would(
    spectrum: list[float], seed: int, cubic: float, learning_rate: float
) -> None:
    matrix, gradient = spectrum_problem(spectrum, seed)
    loss = quadratic(matrix, gradient, cubic=cubic, damping=0.1)
    points = trajectory(loss, 4, learning_rate)
    previous = learning_rate / 2
    for here, there in pairwise(points):
        slope = loss.gradient_at(here, loss.product(here))
        squared = slope @ slope
        if squared < 1e-16:
            break
        length = float((here - there) @ slope / squared)
        assert length > 0
        noise = 1e-12 * (1 + loss(here).abs())
        assert loss(there) <= loss(here) - 1e-4 * length * squared + noise
        if length < 2 * previous * (1 - 1e-6):  # it was halved, so twice the length decreases too little
            assert loss(here - 2 * length * slope) > loss(here) - 2e-4 * length * squared - noise
        previous = length


def test_a_first_length_beyond_all_halvings_comes_down_in_the_next_steps() -> None:
    matrix, gradient = spectrum_problem([0.5, 1.0, 3.0])
    loss = quadratic(matrix, gradient)
    assert not ArmijoGradientDescent(1, 1e20).solve(loss).step.any()
    assert ArmijoGradientDescent(3, 1e20).solve(loss).decrease > 0


def test_armijo_ends_where_a_cubic_loss_is_flat_to_rounding() -> None:
    """The cubes of ‖d‖ at both ends of a step agree long before the slope is nothing."""
    matrix, gradient = spectrum_problem(SPECTRUM, dtype=torch.float32)
    loss = quadratic(matrix, gradient, cubic=0.4)
    step = ArmijoGradientDescent(1000).solve(loss).step
    slope = loss.gradient_at(step, loss.product(step))
    assert slope.norm() < 1e-5 * gradient.norm()


def test_armijo_minimises_and_reports_the_undamped_decrease() -> None:
    matrix, gradient = spectrum_problem([0.5, 1.0, 3.0])
    result = ArmijoGradientDescent(300).solve(quadratic(matrix, gradient, damping=0.2))
    exact = torch.linalg.solve(matrix + 0.2 * torch.eye(3, dtype=torch.float64), -gradient)
    torch.testing.assert_close(result.step, exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.decrease, -undamped_value(matrix, gradient, result.step))


@pytest.mark.parametrize("solver", [GradientDescent(5, 0.1), ArmijoGradientDescent(5)], ids=lambda s: type(s).__name__)
def test_divergence_and_stationary_points(solver: GradientDescent | ArmijoGradientDescent) -> None:
    matrix, gradient = spectrum_problem(SPECTRUM)
    still = solver.solve(quadratic(matrix, torch.zeros_like(gradient)))
    assert not still.step.any() and still.decrease == 0
    broken = solver.solve(quadratic(matrix * float("nan"), gradient))
    assert broken.reason is Reason.NON_FINITE or not broken.step.any()
