import math

import pytest
import torch

from surmin.solvers.scaling import power_of_two


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("largest", "expected"), [(0.3, 0.5), (-5.0, 8.0), (8.0, 16.0), (2.0**-130, 2.0**-129)])
def test_it_is_the_next_power_of_two(largest: float, expected: float, dtype: torch.dtype) -> None:
    assert power_of_two(torch.tensor([0.0, largest, 1e-40], dtype=dtype)) == expected


@pytest.mark.parametrize("entry", [0.0, math.inf, -math.inf, math.nan, 3e38])
def test_where_there_is_none_it_is_one(entry: float) -> None:
    assert power_of_two(torch.tensor([entry, 0.0])) == 1
