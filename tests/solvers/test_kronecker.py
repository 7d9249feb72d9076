"""The Kronecker preconditioner against the dense inverse of (C + π√λ I) ⊗ (κĜ + √λ/π I)."""

import math

import pytest
import torch
from torch import Tensor

from surmin.curvature.moments import KroneckerMoments, MeanDiagonal
from surmin.solvers import kronecker
from surmin.solvers.kronecker import KroneckerPreconditioner

INPUTS, OUTPUTS = 4, 3


def second_moment(rows: int, size: int, seed: int, *, ones: bool = False) -> Tensor:
    rows_ = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if ones:
        rows_[:, -1] = 1
    return rows_.t() @ rows_ / rows


def moments(bias: bool, rows: int = 9) -> KroneckerMoments:
    return KroneckerMoments(second_moment(rows, INPUTS + bias, 0, ones=bias), second_moment(rows, OUTPUTS, 1), bias)


def dense_preconditioner(moment: KroneckerMoments, inflation: float, damping: float) -> Tensor:
    """P as a matrix on the flat vector: the weight row by row, then the bias."""
    c, g = moment.inputs, inflation * moment.outputs
    pi = math.sqrt(c.diagonal().mean() / g.diagonal().mean())
    left = g + math.sqrt(damping) / pi * torch.eye(len(g), dtype=torch.float64)
    right = c + pi * math.sqrt(damping) * torch.eye(len(c), dtype=torch.float64)
    full = torch.kron(left, right)  # acts on V (out, in + 1) flattened row by row
    if not moment.bias:
        return full
    weights = [row * (INPUTS + 1) + column for row in range(OUTPUTS) for column in range(INPUTS)]
    biases = [row * (INPUTS + 1) + INPUTS for row in range(OUTPUTS)]
    order = torch.tensor(weights + biases)
    return full[order][:, order]


@pytest.mark.parametrize("few", [0, kronecker.FEW], ids=["factor", "inverse"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inflation", "damping"), [(1.0, 1.0), (8.0, 1e-2), (3.0, 1e-6)])
def test_it_is_the_inverse_of_the_damped_kronecker_product(
    bias: bool, inflation: float, damping: float, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kronecker, "FEW", few)
    moment = moments(bias)
    precondition = KroneckerPreconditioner([moment], inflation, damping)
    vector = torch.randn(OUTPUTS * (INPUTS + bias), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = torch.linalg.solve(dense_preconditioner(moment, inflation, damping), vector)
    torch.testing.assert_close(precondition(vector), expected, rtol=1e-9, atol=1e-12)


def test_a_block_of_several_layers_goes_layer_by_layer() -> None:
    first, second, third = moments(True), MeanDiagonal(torch.tensor(2.0, dtype=torch.float64), 5), moments(False)
    precondition = KroneckerPreconditioner([first, second, third], 4.0, 0.5)
    pieces = [torch.randn(size, dtype=torch.float64) for size in (15, 5, 12)]
    expected = torch.cat([
        torch.linalg.solve(dense_preconditioner(first, 4.0, 0.5), pieces[0]),
        pieces[1] / (4 * 2 + 0.5),
        torch.linalg.solve(dense_preconditioner(third, 4.0, 0.5), pieces[2]),
    ])  # fmt: skip
    torch.testing.assert_close(precondition(torch.cat(pieces)), expected)


@pytest.mark.parametrize("damping", [0.0, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_singular_moments_without_damping_stay_finite_and_positive(damping: float, dtype: torch.dtype) -> None:
    rank_one = KroneckerMoments(second_moment(1, 5, 0).to(dtype), second_moment(1, 3, 1).to(dtype), True)
    inputs, nothing = second_moment(9, 5, 0).to(dtype), torch.zeros(3, 3, dtype=dtype)
    dead, dead_and_large = (KroneckerMoments(times * inputs, nothing, True) for times in (1, 100))
    for moment in (rank_one, dead, dead_and_large):
        precondition = KroneckerPreconditioner([moment], 8.0, damping)
        vector = torch.randn(15, dtype=dtype, generator=torch.Generator().manual_seed(0))
        assert torch.isfinite(precondition(torch.zeros(15, dtype=dtype))).all()
        if moment is rank_one:
            assert torch.isfinite(precondition(vector)).all()
            assert precondition(vector) @ vector > 0


@pytest.mark.parametrize("times", [1, 100, 1e10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_where_no_column_arrives_only_the_damping_is_left(times: float, dtype: torch.dtype) -> None:
    """Also where π would be infinite."""
    dead = KroneckerMoments(times * second_moment(9, 5, 0).to(dtype), torch.zeros(3, 3, dtype=dtype), True)
    vector = torch.randn(15, dtype=dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(KroneckerPreconditioner([dead], 8.0, 0.01)(vector), vector / 0.01, rtol=1e-4, atol=0)


@pytest.mark.parametrize("few", [0, kronecker.FEW], ids=["factor", "inverse"])
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_a_moment_that_rounding_has_left_indefinite_is_taken_by_its_diagonal(
    few: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kronecker, "FEW", few)
    outputs = torch.tensor([[1.0, 1.0001], [1.0001, 1.0]]) * scale
    assert torch.linalg.eigvalsh(outputs)[0] < 0
    precondition = KroneckerPreconditioner([KroneckerMoments(torch.eye(2), outputs, bias=False)], 1.0, 0.0)
    solved = precondition(torch.tensor([1.0, -2.0, 3.0, 4.0]))
    torch.testing.assert_close(solved * scale, torch.tensor([1.0, -2.0, 3.0, 4.0]), rtol=1e-3, atol=0.0)
