"""The rules that decouple blocks: with them the local losses sum to a bound of the whole quadratic."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surmin.surrogates.decoupling import check_decoupling, uniform_decoupling
from tests.cases import CASES, Case
from tests.oracles import gauss_newton, layer_blocks


def whole(blocks: list[list[Tensor]]) -> Tensor:
    return torch.cat([torch.cat(row, dim=1) for row in blocks])


def inflated_diagonal(blocks: list[list[Tensor]], kappas: list[float]) -> Tensor:
    return torch.block_diag(*(kappa * row[i] for i, (kappa, row) in enumerate(zip(kappas, blocks, strict=True))))


def some_decoupling(blocks: int, seed: int) -> list[float]:
    """Any κ with Σ 1/κ = 1."""
    weights = torch.rand(blocks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05
    return (weights.sum() / weights).tolist()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inflated_blocks_bound_the_whole_gauss_newton_matrix(case: Case) -> None:
    """Cauchy-Schwarz: Σ κ_i d_iᵀ G_i d_i ≥ dᵀ G d for every d, that is, the difference has no negative eigenvalue."""
    network, batch = case.network(), case.batch()
    blocks = layer_blocks(network)
    parts = gauss_newton(blocks, case, *batch)
    full = whole(parts)
    scale = torch.linalg.eigvalsh(full)[-1]
    for kappas in (uniform_decoupling(len(blocks)), some_decoupling(len(blocks), 0), some_decoupling(len(blocks), 1)):
        check_decoupling(kappas, len(blocks))
        lowest = torch.linalg.eigvalsh(inflated_diagonal(parts, kappas) - full)[0]
        assert lowest >= -1e-10 * scale


@pytest.mark.parametrize("case", CASES, ids=str)
def test_less_inflation_is_no_bound(case: Case) -> None:
    """Κ = m is attained where the network can fit its few samples: 0.97 m is too little."""
    blocks = layer_blocks(case.network())
    parts = gauss_newton(blocks, case, *case.batch(samples=3))
    diagonal = inflated_diagonal(parts, [1.0] * len(blocks))
    values, vectors = torch.linalg.eigh(diagonal)
    kept = values > 1e-9 * values[-1]
    half = vectors[:, kept] / values[kept].sqrt()
    needed = torch.linalg.eigvalsh(half.t() @ whole(parts) @ half)[-1]
    assert 0.97 * len(blocks) < needed < (1 + 1e-9) * len(blocks)


@given(blocks=st.integers(1, 40), seed=st.integers(0, 1000))
def test_any_decoupling_with_the_right_sum_is_taken(blocks: int, seed: int) -> None:
    assert check_decoupling(uniform_decoupling(blocks), blocks) == [float(blocks)] * blocks
    kappas = some_decoupling(blocks, seed)
    assert check_decoupling(kappas, blocks) == kappas


@pytest.mark.parametrize(
    ("kappas", "message"),
    [
        ([2.0, 2.0], "got 2 for 3 blocks"),
        ([2.0, 4.0, 5.0], r"Σ 1/κ = 1 .* got 0\.95"),
        ([1.0, 1.0, 1.0], "got 3"),
        ([-1.0, 1.0, 1.0], "positive"),
        ([0.0, 2.0, 2.0], "positive"),
        ([math.inf, 2.0, 2.0], "positive"),
        ([math.nan, 3.0, 3.0], "positive"),
    ],
)
def test_wrong_decouplings_are_rejected(kappas: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_decoupling(kappas, 3)
