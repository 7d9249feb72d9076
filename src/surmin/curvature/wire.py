"""Columns as sent to another worker: rounded to fewer bits, each with its own scale."""

from typing import Literal

import torch
from torch import Tensor

from surmin.curvature.shapes import flat_outputs, spread_over

WireName = Literal["bfloat16", "float16", "int8"]
LARGEST_INTEGER = 127


def round_columns(columns: Tensor, wire: WireName) -> tuple[Tensor, Tensor]:
    """The columns as multiples of their scales, rounded; and the scales.

    Args:
        columns: (k, q, *out), k columns for each of q samples.
        wire: what to round to. "int8" has 127 steps from zero to a column's largest number.

    Returns:
        (k, q, *out) and, in the columns' own type, (k, q).
    """
    scales = flat_outputs(columns, 2).abs().amax(dim=2).clamp_min(torch.finfo(columns.dtype).tiny)
    scaled = columns / spread_over(scales, columns)
    if wire != "int8":
        return scaled.to(getattr(torch, wire)), scales
    return (scaled * LARGEST_INTEGER).round().to(torch.int8), scales / LARGEST_INTEGER


def restore_columns(rounded: Tensor, scales: Tensor) -> Tensor:
    """The columns in their own type again; not finite where they were not."""
    return rounded.to(scales.dtype) * spread_over(scales, rounded)
