"""Columns rounded on their way between workers."""

import math
from typing import get_args

import pytest
import torch

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.wire import WireName


@pytest.mark.parametrize(("wire", "error"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8), ("int8", 0.5 / 127)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_rounding_is_relative_to_the_largest_whatever_the_scale(wire: str, error: float, scale: float) -> None:
    columns = scale * torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    columns *= torch.logspace(0, -6, 5, dtype=torch.float64).view(1, 5, 1)  # some samples matter less than others
    rows = torch.arange(5)
    curvature = FactorCurvature(wire=wire)  # type: ignore[arg-type]
    packed = curvature.pack((columns, rows))
    assert packed[0].element_size() == (1 if wire == "int8" else 2)
    arrived, same_rows = curvature.unpack(packed)
    assert arrived.dtype == torch.float64
    assert torch.equal(same_rows, rows)
    worst, largest = (arrived - columns).abs().amax(2), columns.abs().amax(2)
    assert torch.all(worst <= 1.01 * error * largest)
    assert torch.any(worst > 0.1 * error * largest)


def test_zero_columns_and_no_rounding() -> None:
    zero = torch.zeros(2, 3, 4)
    for wire in get_args(WireName):
        (arrived,) = FactorCurvature(wire=wire).unpack(FactorCurvature(wire=wire).pack((zero,)))
        assert torch.equal(arrived, zero)
    message = (torch.randn(2, 3, 4), torch.arange(3))
    assert FactorCurvature().unpack(FactorCurvature().pack(message)) is message


@pytest.mark.parametrize("wire", get_args(WireName))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_does_not_become_finite_on_the_way(wire: WireName, value: float) -> None:
    columns = torch.ones(2, 3, 4)
    columns[1, 2, 0] = value
    (arrived,) = FactorCurvature(wire=wire).unpack(FactorCurvature(wire=wire).pack((columns,)))
    assert not arrived[1, 2, 0].isfinite()
    assert torch.equal(arrived[0], columns[0])
