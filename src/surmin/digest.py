"""Recognising numbers again, on other machines and in later runs."""

from collections.abc import Iterable
from hashlib import blake2b

import torch
from torch import Tensor


def digest_of(named: Iterable[tuple[str, Tensor]]) -> str:
    """The same text for the same names, types, shapes and numbers in the same order, different for any others."""
    digest = blake2b(digest_size=16)
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        for part in strided_parts(tensor):
            digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def strided_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """What holds a tensor's numbers in memory: itself, or the places and values of a sparse one."""
    held = tensor.detach()
    if held.layout == torch.strided:
        return (held,)
    if held.layout == torch.sparse_coo:
        return held._indices(), held._values()
    if held.layout in (torch.sparse_csr, torch.sparse_bsr):
        return held.crow_indices(), held.col_indices(), held.values()
    return held.ccol_indices(), held.row_indices(), held.values()
