import math

import pytest
import torch

from surmin.scaling import norms, power_of_two


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("largest", "expected"), [(0.3, 0.5), (-5.0, 8.0), (8.0, 16.0), (2.0**-130, 2.0**-129)])
def test_it_is_the_next_power_of_two(largest: float, expected: float, dtype: torch.dtype) -> None:
    assert power_of_two(torch.tensor([0.0, largest, 1e-40], dtype=dtype)) == expected


@pytest.mark.parametrize("entry", [0.0, math.inf, -math.inf, math.nan, 3e38])
def test_where_there_is_none_it_is_one(entry: float) -> None:
    assert power_of_two(torch.tensor([entry, 0.0])) == 1


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1.0, 1e30])
def test_norms_of_what_is_too_small_or_large_to_be_squared(size: float) -> None:
    rows = torch.tensor([[3.0, -4.0], [0.0, 0.0], [3e-3, 4e-3]]) * size
    torch.testing.assert_close(norms(rows) / size, torch.tensor([5.0, 0.0, 5e-3]))


def test_the_norm_of_what_is_not_finite_is_not() -> None:
    assert not norms(torch.tensor([1.0, torch.nan])).isfinite()
