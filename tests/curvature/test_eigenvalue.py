"""Power iteration and Lanczos on many matrices at once, against eigvalsh."""

from contextlib import nullcontext
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surmin.curvature.eigenvalue import lanczos, power_iteration
from tests.solvers.problems import spectrum_problem

SPECTRA = {
    "definite": [[1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 5.0]],
    "indefinite": [[-3.0, -1.0, 0.5, 2.0], [-1.0, 0.0, 1.0, 4.0], [-10.0, -9.0, -8.0, 0.1]],
    "negative definite": [[-4.0, -3.0, -2.0, -1.0], [-5.0, -5.0, -5.0, -0.1]],
    "mixed signs of the largest": [[-4.0, 0.0, 1.0, 3.0], [1.0, 2.0, 3.0, 9.0]],
    "degenerate": [[2.0, 2.0, 2.0, 2.0], [-1.0, -1.0, -1.0, -1.0], [0.0, 0.0, 0.0, 0.0]],
}
OPPOSITE = [[-2.0, 0.0, 1.0, 2.0], [-2.0, -1.0, 1.0, 1.9]]
powers = partial(power_iteration, again=nullcontext())
METHODS = {"power": powers, "lanczos": lanczos}


def batch(spectra: list[list[float]]) -> Tensor:
    return torch.stack([spectrum_problem(spectrum, seed)[0] for seed, spectrum in enumerate(spectra)])


def start(n: int, size: int) -> Tensor:
    """One vector for all matrices, as the curvature wave does."""
    vector = torch.randn(1, size // 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return vector.expand(n, -1, -1).clone()


def product(matrices: Tensor):
    return lambda v: torch.einsum("nij,nj->ni", matrices, v.flatten(1)).view(v.shape)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("spectra", SPECTRA.values(), ids=SPECTRA.keys())
def test_many_steps_find_the_largest_eigenvalue(method, spectra: list[list[float]]) -> None:
    matrices = batch(spectra)
    exact = torch.linalg.eigvalsh(matrices)[:, -1]
    found = method(product(matrices), start(len(spectra), 4), 3000 if method is powers else 4)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


def quotient(matrices: Tensor, vectors: Tensor, products: int) -> Tensor:
    """⟨v, A v⟩ / ⟨v, v⟩ at the last of so many products, v a power of A times the start."""
    powered = torch.linalg.matrix_power(matrices, products - 1) @ vectors.flatten(1).unsqueeze(2)
    return (powered * (matrices @ powered)).sum((1, 2)) / powered.square().sum((1, 2))


@pytest.mark.parametrize(("name", "passes"), [("definite", 1), ("negative definite", 2)])
def test_power_iteration_gives_the_rayleigh_quotient_at_its_last_product(name: str, passes: int) -> None:
    """Of a negative spectrum it finds the other end first, which shifts the matrices of a second pass."""
    matrices, begin = batch(SPECTRA[name]), start(2, 4)
    expected = quotient(matrices, begin, 7)
    if passes == 2:
        shift = expected.abs()
        expected = quotient(matrices + shift.view(2, 1, 1) * torch.eye(4, dtype=torch.float64), begin, 7) - shift
    asked = Mock(wraps=product(matrices))
    torch.testing.assert_close(powers(asked, begin, 7), expected)
    assert asked.call_count == 7 * passes


@pytest.mark.parametrize(("steps", "expected"), [(3, 3), (4, 4), (9, 4)])
def test_lanczos_takes_as_many_products_as_it_may_up_to_the_dimensions(steps: int, expected: int) -> None:
    asked = Mock(wraps=product(batch(SPECTRA["definite"])))
    lanczos(asked, start(2, 4), steps)
    assert asked.call_count == expected


def test_lanczos_is_not_held_up_by_an_opposite_pair() -> None:
    """Power iteration is: between -2 and 2 it cannot choose."""
    matrices = batch(OPPOSITE)
    exact = torch.tensor([2.0, 1.9], dtype=torch.float64)
    torch.testing.assert_close(lanczos(product(matrices), start(2, 4), 4), exact)
    assert powers(product(matrices), start(2, 4), 1000)[0] < 2 - 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_lanczos_never_exceeds_it_where_the_rank_is_used_up(seed: int) -> None:
    """A layer's Gauss-Newton matrix as a product of factors: what is left after its rank is rounding of rounding."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    columns = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    jacobian = torch.einsum("kno,ni->knoi", columns, inputs).reshape(12, 25)
    exact = torch.linalg.eigvalsh(jacobian.t() @ jacobian)[-1:]
    vector = torch.randn(1, 25, generator=generator, dtype=torch.float64)
    for steps in (12, 15, 20, 25, 40):
        torch.testing.assert_close(lanczos(lambda v: (v @ jacobian.t()) @ jacobian, vector, steps), exact)


MAGNITUDES = st.floats(1e-100, 10)  # squares of much less underflow
EIGENVALUES = st.just(0.0) | MAGNITUDES | MAGNITUDES.map(lambda value: -value)


@given(
    spectrum=st.lists(EIGENVALUES, min_size=4, max_size=4), steps=st.integers(1, 30), seed=st.integers(0, 99),
)  # fmt: skip
def test_estimates_never_exceed_it_and_lanczos_is_the_closer_one(spectrum: list[float], steps: int, seed: int) -> None:
    matrix, _ = spectrum_problem(spectrum, seed)
    exact = max(spectrum)
    found = {name: float(method(product(matrix[None]), start(1, 4), steps)[0]) for name, method in METHODS.items()}
    assert all(value <= exact + 1e-9 for value in found.values())
    assert found["lanczos"] >= found["power"] - 1e-9


def test_a_matrix_s_estimate_does_not_depend_on_its_neighbours() -> None:
    spectra = [spectrum for group in (*SPECTRA.values(), OPPOSITE) for spectrum in group]
    matrices, begin = batch(spectra), start(len(spectra), 4)
    for method in METHODS.values():
        together = method(product(matrices), begin, 25)
        alone = torch.cat([method(product(matrices[j : j + 1]), begin[:1], 25) for j in range(len(spectra))])
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_matrix_that_is_not_finite_has_none_and_its_neighbours_keep_theirs(method) -> None:
    matrices, begin = batch(SPECTRA["definite"]), start(2, 4)
    (alone,) = method(product(matrices[:1]), begin[:1], 25)
    matrices[1, 0, 0] = torch.inf
    first, second = method(product(matrices), begin, 25)
    torch.testing.assert_close(first, alone, rtol=1e-12, atol=1e-12)
    assert second.isnan()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_matrices_whose_products_cannot_be_squared(method) -> None:
    matrices = torch.diag(torch.tensor([1.0, 0.5, 0.2, 0.1])).mul(1e-24).unsqueeze(0)
    found = method(product(matrices), start(1, 4).float(), 30 if method is powers else 4)
    torch.testing.assert_close(found / 1e-24, torch.tensor([1.0]), rtol=1e-4, atol=0.0)
