"""Curvature columns that several losses share."""

import math

import torch
from torch import Tensor


def identity_factor(outputs: Tensor, constant: float) -> Tensor:
    """√L I as columns, shape (outputs per sample, n, *outputs)."""
    size = outputs[0].numel()
    columns = math.sqrt(constant) * torch.eye(size, dtype=outputs.dtype, device=outputs.device)
    return columns.view(size, 1, *outputs.shape[1:]).repeat(1, len(outputs), *[1] * (outputs.dim() - 1))


def random_sign_factor(outputs: Tensor, constant: float, rank: int, generator: torch.Generator) -> Tensor:
    """Columns of random signs whose mean outer product is L I, shape (rank, n, *outputs)."""
    signs = torch.empty(rank, *outputs.shape, dtype=outputs.dtype, device=outputs.device)
    return signs.bernoulli_(0.5, generator=generator).mul_(2).sub_(1) * math.sqrt(constant / rank)


def one_block_per_position(columns: Tensor) -> Tensor:
    """Every position's own columns (k, n, *positions, c) as columns (positions · k, n, *positions, c) of samples."""
    k, n, *positions, c = columns.shape
    if not positions:
        return columns
    flat = columns.flatten(2, -2)
    count = flat.shape[2]
    spread = flat.new_zeros(count, k, n, count, c)
    at = torch.arange(count, device=flat.device)
    spread[at, :, :, at] = flat.permute(2, 0, 1, 3)
    return spread.view(count * k, n, *positions, c)
