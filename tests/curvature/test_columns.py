"""Columns with vectors, against sums written out, for every shape that columns can have."""

import pytest
import torch
from torch import Tensor

from surmin.curvature.gauss_newton import projection, weighted_sum
from surmin.curvature.sampling import traces_of

SHAPES = [(3, 5, 4), (1, 7, 6), (2, 1, 3), (4, 3, 2, 5), (2, 4, 3, 2, 2), (2, 0, 3)]


def columns_of(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_projection(shape: tuple[int, ...]) -> None:
    """Rᵀ t of every sample, also where R is a part of a larger tensor."""
    columns, tangents = columns_of(shape), columns_of(shape[1:])
    expected = (columns * tangents).flatten(2).sum(2)
    torch.testing.assert_close(projection(columns, tangents), expected)
    wider = torch.cat([columns, columns], dim=1)
    torch.testing.assert_close(projection(wider[:, : shape[1]], tangents), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_weighted_sum_is_its_transpose(shape: tuple[int, ...]) -> None:
    columns, tangents, weights = columns_of(shape), columns_of(shape[1:]), columns_of(shape[:2])
    there = (weighted_sum(columns, weights) * tangents).sum()
    torch.testing.assert_close(there, (weights * projection(columns, tangents)).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_traces(shape: tuple[int, ...]) -> None:
    """The trace of R Rᵀ, from the matrix."""
    columns = columns_of(shape)
    matrices = torch.einsum("kqa,kqb->qab", columns.flatten(2), columns.flatten(2))
    torch.testing.assert_close(traces_of(columns), matrices.diagonal(dim1=1, dim2=2).sum(1))
