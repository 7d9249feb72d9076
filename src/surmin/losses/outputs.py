"""Positions of outputs, and checks that targets fit them."""

import math

import torch
from torch import Tensor


def positions(outputs: Tensor) -> int:
    """Number of positions (such as tokens) per sample."""
    return math.prod(outputs.shape[1:-1])


def check_outputs(outputs: Tensor) -> None:
    """Raise ValueError if outputs lack an axis of classes or are complex."""
    if outputs.dim() < 2:
        raise ValueError(f"the network's outputs must have shape (n, ..., classes), got {tuple(outputs.shape)}")
    if outputs.is_complex():
        raise ValueError(f"the network's outputs must be real numbers, got {outputs.dtype}")


def check_real_targets(outputs: Tensor, targets: Tensor) -> None:
    """Raise ValueError unless targets are finite real numbers of the outputs' shape."""
    if targets.shape != outputs.shape:
        raise ValueError(f"targets of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(outputs.shape)}")
    if targets.is_complex():
        raise ValueError(f"targets must be real numbers, got {targets.dtype}")
    if not torch.isfinite(targets).all():
        raise ValueError("targets contain NaN or infinite values")
