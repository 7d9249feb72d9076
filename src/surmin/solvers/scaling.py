"""Scaling that rounds nothing, so that squares of small numbers do not underflow."""

import torch
from torch import Tensor


def power_of_two(vector: Tensor) -> Tensor:
    """The least power of two above all entries, 0-dimensional; 1 for zeros and for what is not finite."""
    largest = vector.abs().amax()
    found = largest / torch.frexp(largest).mantissa
    return torch.where(found.isfinite(), found, 1.0)
