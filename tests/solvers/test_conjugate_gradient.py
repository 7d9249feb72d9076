import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surmin.solvers.conjugate_gradient import CHECK_EVERY, ConjugateGradient
from surmin.solvers.result import Reason
from surmin.surrogates.local_loss import LocalLoss
from tests.solvers.problems import quadratic, spectrum_problem, undamped_value

SPECTRUM = [0.1, 0.5, 1.0, 2.0, 3.0, 10.0, 11.0, 40.0]


@given(
    spectrum=st.lists(st.floats(0.01, 10), min_size=1, max_size=12), seed=st.integers(0, 999),
    inflation=st.floats(1, 8), damping=st.floats(0, 1),
)  # fmt: skip
def test_enough_steps_give_the_dense_solution(
    spectrum: list[float], seed: int, inflation: float, damping: float
) -> None:
    matrix, gradient = spectrum_problem(spectrum, seed)
    result = ConjugateGradient(60).solve(quadratic(matrix, gradient, inflation=inflation, damping=damping))
    exact = torch.linalg.solve(inflation * matrix + damping * torch.eye(len(spectrum), dtype=torch.float64), -gradient)
    torch.testing.assert_close(result.step, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_every_iterate_equals_scipy_s(steps: int, preconditioned: bool) -> None:
    matrix, gradient = spectrum_problem(SPECTRUM)
    other, _ = spectrum_problem([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], seed=5)
    inverse = torch.linalg.inv(other)
    solver = ConjugateGradient(steps, preconditioner=(lambda v: inverse @ v) if preconditioned else None)
    result = solver.solve(quadratic(matrix, gradient, damping=0.2))
    dense = (matrix + 0.2 * torch.eye(8, dtype=torch.float64)).cpu().numpy()
    expected, _ = scipy.sparse.linalg.cg(
        dense, -gradient.cpu().numpy(), rtol=0, maxiter=steps, M=inverse.cpu().numpy() if preconditioned else None
    )
    np.testing.assert_allclose(result.step.cpu().numpy(), expected, rtol=1e-9)
    assert result.reason is Reason.MAX_STEPS


@given(steps=st.integers(1, 10), seed=st.integers(0, 99), inflation=st.floats(1, 8), damping=st.floats(0, 2))
def test_the_predicted_decrease_is_that_of_the_undamped_loss(
    steps: int, seed: int, inflation: float, damping: float
) -> None:
    matrix, gradient = spectrum_problem(SPECTRUM, seed)
    result = ConjugateGradient(steps).solve(quadratic(matrix, gradient, inflation=inflation, damping=damping))
    expected = -undamped_value(matrix, gradient, result.step, inflation)
    torch.testing.assert_close(result.decrease, expected, rtol=1e-9, atol=1e-12)
    assert result.decrease > 0


def test_convergence_is_named_and_stops_early() -> None:
    matrix, gradient = spectrum_problem([1.0, 1.0, 1.0, 5.0, 5.0])  # two distinct eigenvalues: two steps are exact
    asked: list[Tensor] = []

    def product(vector: Tensor) -> Tensor:
        asked.append(vector)
        return matrix @ vector

    result = ConjugateGradient(200).solve(LocalLoss(gradient, product))
    assert result.reason is Reason.CONVERGED
    assert len(asked) == CHECK_EVERY
    torch.testing.assert_close(result.step, torch.linalg.solve(matrix, -gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spectrum", [[1.0, 1.0, 5.0], SPECTRUM, [1e-6, 1.0, 1e3]], ids=str)
def test_going_on_after_convergence_does_no_harm(spectrum: list[float], dtype: torch.dtype) -> None:
    """Far more steps than dimensions: the residual underflows, and that is not negative curvature."""
    matrix, gradient = spectrum_problem(spectrum, dtype=dtype)
    result = ConjugateGradient(1000).solve(quadratic(matrix, gradient, damping=1e-2))
    exact = torch.linalg.solve(
        matrix.double() + 1e-2 * torch.eye(len(spectrum), dtype=torch.float64), -gradient.double()
    )
    torch.testing.assert_close(result.step.double(), exact, rtol=5e-3 if dtype == torch.float32 else 1e-10, atol=1e-6)
    assert result.reason is Reason.CONVERGED


@pytest.mark.parametrize(
    ("size", "dtype"), [(1e-6, torch.float32), (1e-30, torch.float32), (1e-6, torch.float64), (1e-200, torch.float64)]
)
def test_underflow_is_not_taken_for_negative_curvature(size: float, dtype: torch.dtype) -> None:
    for seed in range(20):
        spectrum = (10 ** torch.linspace(-3, 2 * (seed % 3), 20)).tolist()
        matrix, gradient = spectrum_problem(spectrum, seed, dtype=dtype)
        assert ConjugateGradient(3000).solve(quadratic(matrix, size * gradient)).reason is Reason.CONVERGED


@pytest.mark.parametrize("exponent", [-100, -60, 60, 100])
def test_a_power_of_two_in_the_gradient_is_one_in_the_step_bit_for_bit(exponent: int) -> None:
    matrix, gradient = spectrum_problem(SPECTRUM, dtype=torch.float32)
    plain, scaled = (ConjugateGradient(5).solve(quadratic(matrix, g)) for g in (gradient, 2.0**exponent * gradient))
    assert torch.equal(scaled.step, 2.0**exponent * plain.step)
    assert scaled.code == plain.code


def test_without_a_tolerance_it_goes_on_to_rounding_errors() -> None:
    matrix, gradient = spectrum_problem((10 ** torch.linspace(-3, 0, 12)).tolist())
    result = ConjugateGradient(400).solve(quadratic(matrix, gradient))
    assert (matrix @ result.step + gradient).norm() < 1e-11 * gradient.norm()


def test_negative_curvature_is_named_and_the_step_before_it_kept() -> None:
    matrix, gradient = spectrum_problem([1.0, 2.0, 3.0, -0.1, 4.0])
    result = ConjugateGradient(5).solve(quadratic(matrix, gradient))
    assert result.reason is Reason.NEGATIVE_CURVATURE
    shorter = [ConjugateGradient(steps).solve(quadratic(matrix, gradient)) for steps in range(1, 5)]
    kept = [other.step for other in shorter if other.reason is Reason.MAX_STEPS]
    assert kept, "the first direction has positive curvature"
    assert torch.equal(result.step, kept[-1])
    assert result.decrease > 0


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_products_give_after_the_end_changes_nothing(value: float, preconditioned: bool) -> None:
    matrix, gradient = spectrum_problem([1.0, 2.0, 3.0, -0.1, 4.0])
    asked: list[Tensor] = []

    def product(vector: Tensor) -> Tensor:
        asked.append(vector)
        image = matrix @ vector
        return image if len(asked) <= ended else torch.full_like(image, value)

    solver, ended = ConjugateGradient(6, (lambda v: 0.5 * v) if preconditioned else None), 6
    expected = solver.solve(LocalLoss(gradient, product))
    assert expected.reason is Reason.NEGATIVE_CURVATURE
    steps = [
        ConjugateGradient(taken, solver.preconditioner).solve(quadratic(matrix, gradient)) for taken in range(1, 7)
    ]
    ended = [result.reason for result in steps].index(Reason.NEGATIVE_CURVATURE) + 1
    asked.clear()
    found = solver.solve(LocalLoss(gradient, product))
    assert len(asked) == 6 > ended
    assert torch.equal(found.step, expected.step)
    assert found.decrease == expected.decrease
    assert found.reason is Reason.NEGATIVE_CURVATURE


@pytest.mark.parametrize("spectrum", [[-1.0, -2.0], [0.0, 0.0, 0.0]], ids=str)
def test_no_positive_curvature_along_the_gradient_leaves_no_step(spectrum: list[float]) -> None:
    matrix, gradient = spectrum_problem(spectrum)
    result = ConjugateGradient(3).solve(quadratic(matrix, gradient))
    assert result.reason is Reason.NEGATIVE_CURVATURE
    assert not result.step.any()
    assert result.decrease == 0


@pytest.mark.parametrize("where", ["gradient", "curvature"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_named(where: str, value: float) -> None:
    matrix, gradient = spectrum_problem(SPECTRUM)
    (gradient if where == "gradient" else matrix)[0] = value
    result = ConjugateGradient(20).solve(quadratic(matrix, gradient))
    assert result.reason is Reason.NON_FINITE
    assert torch.isfinite(result.step).all()


def test_a_zero_gradient_is_converged_at_once() -> None:
    matrix, gradient = spectrum_problem(SPECTRUM)
    result = ConjugateGradient(20).solve(quadratic(matrix, torch.zeros_like(gradient)))
    assert result.reason is Reason.CONVERGED
    assert not result.step.any()
    assert result.decrease == 0


def test_a_cubic_term_is_refused() -> None:
    with pytest.raises(ValueError, match="cubic solver"):
        ConjugateGradient(3).solve(quadratic(*spectrum_problem(SPECTRUM), cubic=1.0))


def test_hardly_any_curvature_and_no_damping_still_predict_the_decrease() -> None:
    matrix, gradient = 1e-30 * torch.eye(3), torch.tensor([1.0, 2.0, -1.0])
    result = ConjugateGradient(3).solve(quadratic(matrix, gradient))
    torch.testing.assert_close(result.step, -1e30 * gradient)
    torch.testing.assert_close(result.decrease, torch.tensor(3e30))


def test_a_length_beyond_all_numbers_is_as_bad_as_negative_curvature() -> None:
    matrix = torch.full((1, 1), 1e-41)
    result = ConjugateGradient(3).solve(quadratic(matrix, torch.tensor([1e3])))
    assert result.reason is Reason.NEGATIVE_CURVATURE and result.step == 0
