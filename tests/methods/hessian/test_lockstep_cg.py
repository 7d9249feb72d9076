import pytest
import torch
from torch import Tensor

from surmin.methods.hessian.lockstep_cg import GuardedConjugateGradient, LockstepConjugateGradient
from surmin.solvers.conjugate_gradient import ConjugateGradient
from tests.solvers.problems import quadratic, spectrum_problem

SPECTRUM = [0.1, 0.5, 1.0, 2.0, 3.0, 10.0, 11.0, 40.0]
by_kind = pytest.mark.parametrize("kind", [LockstepConjugateGradient, GuardedConjugateGradient])


def step_after(kind: type[LockstepConjugateGradient], matrix: Tensor, gradient: Tensor, steps: int) -> Tensor:
    run = kind(gradient)
    for _ in range(steps):
        run.advance(matrix @ run.direction)
    return run.step


@by_kind
@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_it_takes_the_steps_of_conjugate_gradient(kind: type[LockstepConjugateGradient], steps: int) -> None:
    matrix, gradient = spectrum_problem(SPECTRUM)
    expected = ConjugateGradient(steps).solve(quadratic(matrix, gradient)).step
    torch.testing.assert_close(step_after(kind, matrix, gradient, steps), expected)


@by_kind
@pytest.mark.parametrize("exponent", [-100, 60])
def test_a_power_of_two_in_the_gradient_is_one_in_the_step_bit_for_bit(
    kind: type[LockstepConjugateGradient], exponent: int
) -> None:
    """At both ends the curvature along the gradient is no number of float32."""
    matrix, gradient = spectrum_problem(SPECTRUM, dtype=torch.float32)
    plain, scaled = (step_after(kind, matrix, own, 5) for own in (gradient, 2.0**exponent * gradient))
    assert torch.equal(scaled, 2.0**exponent * plain)


def test_negative_curvature_at_once_leaves_the_gradient_s_own_step() -> None:
    matrix, gradient = spectrum_problem([-1.0, -2.0, -3.0], dtype=torch.float32)
    assert torch.equal(step_after(GuardedConjugateGradient, matrix, 2.0**-100 * gradient, 3), -(2.0**-100) * gradient)


def test_where_the_first_length_is_beyond_all_numbers_the_step_is_against_the_gradient() -> None:
    run = GuardedConjugateGradient(torch.tensor([1.5, -1.0]))
    run.advance(1e-40 * run.direction)
    assert torch.equal(run.step, torch.tensor([-1.5, 1.0]))
