"""Cubic solvers against the conditions of Nesterov and Polyak, and against SciPy's BFGS from many starts."""

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surmin.solvers.cubic import (
    POWER_STEPS,
    CubicGradientDescent,
    CubicKrylov,
    _cauchy_bound,
    _line_minimiser,
    solve_cubic_dense,
)
from surmin.solvers.result import Reason
from surmin.surrogates.local_loss import LocalLoss
from tests.solvers.problems import quadratic, spectrum_problem, undamped_value

spectra = st.lists(st.floats(-5, 5).map(lambda x: round(x, 2)), min_size=1, max_size=6)


def best_value(matrix: Tensor, gradient: Tensor, cubic: float, starts: int = 12) -> float:
    """The least of many runs of SciPy's BFGS: no secular equation, no eigenvalues."""
    a, g = matrix.cpu().numpy(), gradient.cpu().numpy()
    generator = np.random.default_rng(0)

    def value(d: np.ndarray) -> float:
        return float(g @ d + d @ a @ d / 2 + 2 * cubic / 3 * np.linalg.norm(d) ** 3)

    def slope(d: np.ndarray) -> np.ndarray:
        return g + a @ d + 2 * cubic * np.linalg.norm(d) * d

    radius = (np.abs(np.linalg.eigvalsh(a)).max() + 1) / cubic
    runs = [
        scipy.optimize.minimize(value, radius * generator.standard_normal(len(g)), jac=slope, method="BFGS").fun
        for _ in range(starts)
    ]
    return min(0.0, *runs)


def assert_global_minimiser(matrix: Tensor, gradient: Tensor, cubic: float, step: Tensor, tolerance: float) -> None:
    """Nesterov and Polyak's conditions, necessary and sufficient: (A + 2ρ‖d‖ I) d = -g and A + 2ρ‖d‖ I ⪰ 0."""
    shifted = matrix + 2 * cubic * step.norm() * torch.eye(len(gradient), dtype=torch.float64)
    scale = 1 + matrix.abs().max() + gradient.norm()
    assert torch.linalg.eigvalsh(shifted)[0] >= -tolerance * scale
    assert (shifted @ step + gradient).norm() <= tolerance * scale * (1 + step.norm())


@given(spectrum=spectra, seed=st.integers(0, 999), cubic=st.sampled_from([1e-2, 0.3, 4.0]))
def test_the_dense_solver_finds_the_global_minimum(spectrum: list[float], seed: int, cubic: float) -> None:
    matrix, gradient = spectrum_problem(spectrum, seed)
    step, code = solve_cubic_dense(matrix, gradient, cubic)
    assert Reason(int(code)) is Reason.CONVERGED
    assert_global_minimiser(matrix, gradient, cubic, step, 1e-7)


@given(spectrum=spectra, seed=st.integers(0, 999), cubic=st.sampled_from([0.1, 4.0]), size=st.floats(-12, 0))
def test_the_hard_case_and_its_neighbourhood(spectrum: list[float], seed: int, cubic: float, size: float) -> None:
    """The gradient has no part, or a tiny one, along the lowest eigenvector."""
    matrix, gradient = spectrum_problem(spectrum, seed)
    _, vectors = torch.linalg.eigh(matrix)
    lowest = vectors[:, 0]
    for along in (0.0, 10.0**size):
        hard = gradient - (gradient @ lowest) * lowest + along * lowest
        step, code = solve_cubic_dense(matrix, hard, cubic)
        assert Reason(int(code)) is Reason.CONVERGED
        assert_global_minimiser(matrix, hard, cubic, step, 1e-6)


def test_what_rounding_leaves_of_the_gradient_along_the_lowest_vector() -> None:
    """Enough for a part of the step along it, which then counts towards the norm."""
    matrix, gradient = spectrum_problem([2.31, 3.0, 2.5, -5.0, 0.0, 2.94], 17)
    lowest = torch.linalg.eigh(matrix).eigenvectors[:, 0]
    hard = gradient - (gradient @ lowest) * lowest
    step, _ = solve_cubic_dense(matrix, hard, 0.1)
    assert_global_minimiser(matrix, hard, 0.1, step, 1e-12)


@settings(max_examples=20)
@given(spectrum=spectra, seed=st.integers(0, 999), cubic=st.sampled_from([0.1, 2.0]))
def test_nothing_lies_below_the_dense_solution(spectrum: list[float], seed: int, cubic: float) -> None:
    matrix, gradient = spectrum_problem(spectrum, seed)
    step, _ = solve_cubic_dense(matrix, gradient, cubic)
    found, best = float(undamped_value(matrix, gradient, step, cubic=cubic)), best_value(matrix, gradient, cubic)
    assert found <= best + 1e-6 * (1 + abs(best))


@given(spectrum=spectra, seed=st.integers(0, 999), inflation=st.floats(1, 4), damping=st.floats(0, 1))
def test_krylov_with_all_dimensions_is_the_dense_solution(
    spectrum: list[float], seed: int, inflation: float, damping: float
) -> None:
    matrix, gradient = spectrum_problem(spectrum, seed)
    loss = quadratic(matrix, gradient, inflation=inflation, damping=damping, cubic=0.5)
    result = CubicKrylov(20).solve(loss)
    full = inflation * matrix + damping * torch.eye(len(spectrum), dtype=torch.float64)
    exact, _ = solve_cubic_dense(full, gradient, 0.5)
    torch.testing.assert_close(loss(result.step), loss(exact), rtol=1e-7, atol=1e-8)
    assert result.reason is Reason.CONVERGED
    expected = -undamped_value(matrix, gradient, result.step, inflation, 0.5)
    torch.testing.assert_close(result.decrease, expected, rtol=1e-8, atol=1e-8)


def test_krylov_minimises_over_the_krylov_space() -> None:
    """With N products: no point of span(g, Ag, …, A^{N-1}g) is better, by a basis from QR and a minimum from SciPy."""
    matrix, gradient = spectrum_problem([-2.0, -1.0, 0.5, 1.0, 3.0, 10.0, 12.0])
    values = []
    for steps in (1, 2, 3, 5):
        loss = quadratic(matrix, gradient, cubic=0.3)
        result = CubicKrylov(steps).solve(loss)
        powers = torch.stack([torch.linalg.matrix_power(matrix, k) @ gradient for k in range(steps)], dim=1)
        basis, _ = torch.linalg.qr(powers)
        best = best_value(basis.t() @ matrix @ basis, basis.t() @ gradient, 0.3)
        values.append(float(loss(result.step)))
        assert values[-1] == pytest.approx(best, rel=1e-6)
        assert (result.step - basis @ (basis.t() @ result.step)).norm() < 1e-9
    assert values == sorted(values, reverse=True)


def test_krylov_in_an_exhausted_space_stops_growing() -> None:
    """Two distinct eigenvalues: the space has dimension two, whatever is asked for."""
    matrix, gradient = spectrum_problem([1.0] * 4 + [-2.0] * 3)
    exact, _ = solve_cubic_dense(matrix, gradient, 0.5)
    for steps in (2, 3, 7):
        torch.testing.assert_close(CubicKrylov(steps).solve(quadratic(matrix, gradient, cubic=0.5)).step, exact)


def test_krylov_without_a_cubic_term_is_conjugate_gradient_s_limit() -> None:
    matrix, gradient = spectrum_problem([0.5, 1.0, 3.0, 7.0])
    result = CubicKrylov(4).solve(quadratic(matrix, gradient))
    torch.testing.assert_close(result.step, torch.linalg.solve(matrix, -gradient))
    assert result.reason is Reason.CONVERGED
    indefinite, gradient = spectrum_problem([0.5, 1.0, -3.0, 7.0])
    unbounded = CubicKrylov(4).solve(quadratic(indefinite, gradient))
    assert unbounded.reason is Reason.NEGATIVE_CURVATURE
    assert not unbounded.step.any()


@pytest.mark.parametrize("spectrum", [[0.5, 1.0, 3.0], [-1.0, 0.2, 4.0], [-3.0, -2.0, -1.0]], ids=str)
@pytest.mark.parametrize("cubic", [0.3, 3.0])
def test_gradient_descent_reaches_the_global_minimum(spectrum: list[float], cubic: float) -> None:
    """Carmon and Duchi: with a generic gradient, from the Cauchy point, at their step size."""
    for seed in range(3):
        matrix, gradient = spectrum_problem(spectrum, seed)
        loss = quadratic(matrix, gradient, cubic=cubic)
        result = CubicGradientDescent(4000).solve(loss)
        exact, _ = solve_cubic_dense(matrix, gradient, cubic)
        torch.testing.assert_close(loss(result.step), loss(exact), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(result.decrease, -loss(result.step))
        short = CubicGradientDescent(1).solve(loss)
        assert loss(result.step) < loss(short.step) < 0


@pytest.mark.parametrize("solver", [CubicGradientDescent(5), CubicKrylov(3)], ids=lambda s: type(s).__name__)
def test_zero_gradients_and_numbers_that_are_not_finite(solver: CubicGradientDescent | CubicKrylov) -> None:
    matrix, gradient = spectrum_problem([0.5, 1.0, 3.0])
    still = solver.solve(quadratic(matrix, torch.zeros_like(gradient), cubic=1.0))
    assert not still.step.any() and still.decrease == 0
    broken = solver.solve(quadratic(matrix, gradient * float("nan"), cubic=1.0))
    assert broken.reason is Reason.NON_FINITE


def test_a_small_cubic_term_leaves_the_cauchy_length_exact_in_float32() -> None:
    """The usual root of the quadratic equation cancels: 2.5e5 less nearly as much."""
    norm, bend, rho = 1e-3, 1.0, 2e-6
    found = _line_minimiser(torch.tensor(norm), torch.tensor(bend), rho)
    length = torch.tensor(norm, dtype=torch.float64)
    for _ in range(5):
        length = norm / (bend + rho * length)
    torch.testing.assert_close(found.double(), length, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bend", [2.0, 1e-6, 0.0, -3.0])
@pytest.mark.parametrize("rho", [0.5, 1e-3])
def test_the_cauchy_length_is_where_the_line_is_flat(bend: float, rho: float) -> None:
    norm = torch.tensor(0.7, dtype=torch.float64)
    t = _line_minimiser(norm, torch.tensor(bend, dtype=torch.float64), rho)
    assert t > 0
    torch.testing.assert_close(bend * t + rho * t**2, norm)


@pytest.mark.parametrize(("bend", "length"), [(0.5, 1.4), (1e-30, 7e29), (0.0, 0.0), (-1.0, 0.0)])
def test_without_a_cubic_term_the_cauchy_length_is_the_parabola_s_or_none(bend: float, length: float) -> None:
    """Also where the square of the curvature is no number of float32."""
    torch.testing.assert_close(_line_minimiser(torch.tensor(0.7), torch.tensor(bend), 0.0), torch.tensor(length))


def test_small_curvature_and_a_large_gradient_have_a_solution() -> None:
    step, code = solve_cubic_dense(torch.tensor([[1e-3]]), torch.tensor([1e5]), 0.0)
    assert code == Reason.CONVERGED
    torch.testing.assert_close(step, torch.tensor([-1e8]))


def test_without_a_cubic_term_directions_that_the_gradient_has_no_part_in_need_no_curvature() -> None:
    matrix = torch.diag(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64))
    step, code = solve_cubic_dense(matrix, torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), 0.0)
    assert code == Reason.CONVERGED
    torch.testing.assert_close(step, torch.tensor([0.0, -1.0, -2 / 3], dtype=torch.float64))


def test_at_the_bound_on_the_minimiser_s_norm_the_cubic_slope_makes_up_for_all_others() -> None:
    """ρ̃ R² - β R - ‖g‖ = 0."""
    beta, norm = torch.tensor(3.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    radius = _cauchy_bound(beta, norm, 0.5)
    assert float(0.5 * radius**2 - 3 * radius - 2) == pytest.approx(0, abs=1e-9)


def test_the_bound_on_the_minimiser_s_norm_is_finite_where_its_square_is_not() -> None:
    bound = _cauchy_bound(torch.tensor(1.0), torch.tensor(1.0), 1e-20)
    torch.testing.assert_close(bound, torch.tensor(1e20))


def test_one_step_of_gradient_descent_has_carmon_and_duchi_s_size() -> None:
    matrix, gradient = spectrum_problem([0.5, 1.0, 3.0])
    rho, beta, norm = 1.4, 1.5 * 3.0, gradient.norm()
    radius = beta / (2 * rho) + ((beta / (2 * rho)) ** 2 + norm / rho).sqrt()
    unit = gradient / norm
    bend = unit @ matrix @ unit
    start = (bend - (bend**2 + 4 * rho * norm).sqrt()) / (2 * rho) * unit
    slope = gradient + matrix @ start + rho * start.norm() * start
    result = CubicGradientDescent(1).solve(quadratic(matrix, gradient, cubic=rho / 2))
    torch.testing.assert_close(result.step, start - slope / (4 * (beta + rho * radius)))


def test_gradient_descent_asks_for_no_more_products_than_it_needs() -> None:
    matrix, gradient = spectrum_problem([0.5, 1.0, 3.0])
    asked: list[Tensor] = []

    def product(vector: Tensor) -> Tensor:
        asked.append(vector)
        return matrix @ vector

    CubicGradientDescent(5).solve(LocalLoss(gradient, product, cubic=1.0))
    assert len(asked) == POWER_STEPS + 1 + 5


def test_the_krylov_basis_is_orthonormal_whatever_the_spectrum() -> None:
    matrix, gradient = spectrum_problem((10 ** torch.linspace(-6, 6, 60)).tolist())
    basis, _ = CubicKrylov(60)._lanczos(quadratic(matrix, gradient, cubic=1e-3))
    basis = basis[basis.norm(dim=1) > 0]
    assert (basis @ basis.t() - torch.eye(len(basis), dtype=torch.float64)).abs().max() < 1e-13


@pytest.mark.parametrize("solver", [CubicKrylov(3), CubicGradientDescent(3)], ids=["krylov", "gd"])
def test_gradients_whose_squares_underflow_give_steps_along_them(solver: CubicKrylov | CubicGradientDescent) -> None:
    """Below a flat network gradient and curvature are both that small."""
    size = 1e-24
    gradient = torch.tensor([1.0, 2.0, -1.0]) * size
    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.2])) * size
    result = solver.solve(quadratic(matrix, gradient, cubic=0.1))
    assert result.step.isfinite().all() and result.decrease.isfinite()
    assert gradient.mul(1 / size).dot(result.step) < 0
