"""Tensors as they leave a worker in one message."""

from collections.abc import Sequence

import torch
from torch import Tensor


def apart_from(batch: Tensor, state: Tensor) -> Tensor:
    """A state; a copy of one in the batch's own memory, which may hold the next one while this is being sent."""
    return state.clone() if state.untyped_storage().data_ptr() == batch.untyped_storage().data_ptr() else state


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """On a new first dimension; a single one is not copied."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))
