"""Noticing that the numbers in a tensor have changed when its version counter does not show it.

It does not show what NumPy writes, collectives of `torch.distributed` receive, or `.data` is given.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

PROBES = 4096
"""Numbers of a tensor that are compared."""


def probe(tensor: Tensor) -> Tensor:
    """The bytes of numbers evenly spaced in memory, at an odd distance so that every column of images comes up."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    numbers = tensor.detach().permute(order).reshape(-1)[:: tensor.numel() // PROBES | 1]
    return numbers.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def all_equal(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether all are equal, pair by pair, with one wait for the device."""
    same = [(now == then).all() for now, then in zip(tensors, others, strict=True)]
    return not same or bool(torch.stack([own.to(same[0].device) for own in same]).all())
