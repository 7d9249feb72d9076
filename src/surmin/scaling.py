"""Scaling without rounding, so that squares of small numbers do not underflow."""

import torch
from torch import Tensor


def power_of_two(vector: Tensor) -> Tensor:
    """The least power of two above all entries, 0-dimensional; 1 for zeros and non-finite values."""
    return _above(vector.abs().amax())


def norms(vectors: Tensor) -> Tensor:
    """Norm of every row, (…, size) to (…), even if squares of its entries would underflow."""
    scale = _above(vectors.abs().amax(-1, keepdim=True))
    return scale.squeeze(-1) * torch.linalg.vector_norm(vectors / scale, dim=-1)


def _above(largest: Tensor) -> Tensor:
    found = largest / torch.frexp(largest).mantissa
    return torch.where(found.isfinite(), found, 1.0)
