"""Columns rounded on their way between workers."""

import pytest
import torch

from surmin.curvature.factor import FactorCurvature


@pytest.mark.parametrize(("wire", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_rounding_is_relative_to_the_largest_whatever_the_scale(wire: str, error: float, scale: float) -> None:
    columns = scale * torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(5)
    curvature = FactorCurvature(wire=wire)  # type: ignore[arg-type]
    packed = curvature.pack((columns, rows))
    assert packed[0].element_size() == 2
    arrived, same_rows = curvature.unpack(packed)
    assert arrived.dtype == torch.float64
    assert torch.equal(same_rows, rows)
    assert 0 < (arrived - columns).abs().max() <= error * columns.abs().max()


def test_zero_columns_and_no_rounding() -> None:
    zero = torch.zeros(2, 3, 4)
    (arrived,) = FactorCurvature(wire="float16").unpack(FactorCurvature(wire="float16").pack((zero,)))
    assert torch.equal(arrived, zero)
    message = (torch.randn(2, 3, 4), torch.arange(3))
    assert FactorCurvature().unpack(FactorCurvature().pack(message)) is message
