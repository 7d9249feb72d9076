"""Knowing a batch again, also after a run was resumed."""

from hashlib import blake2b

import torch
from torch import Tensor


def batch_digest(inputs: Tensor, targets: Tensor) -> str:
    """The same text for the same inputs and targets on any machine, and another for any others."""
    digest = blake2b(digest_size=16)
    for tensor in (inputs, targets):
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
