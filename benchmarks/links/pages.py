"""Memory that is there before a clock starts.

The first use of a page costs a virtual machine up to 10 µs, so that a round takes half as long again where its tensors
come to lie on new ones. Who trains for long pays that once; a race of a few rounds would be decided by it.
"""

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
PIECE, PIECES = 16 << 20, 32
"""Bytes of a piece, well below the 32 MiB from which glibc always asks for new pages; and how many."""


def keep_memory() -> None:
    """Touch half a GiB, and let the allocator keep what is freed, where it is glibc's."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, 2 * PIECE)
            mallopt(M_TRIM_THRESHOLD, -1)
    pieces = [torch.ones(PIECE, dtype=torch.uint8) for _ in range(PIECES)]
    del pieces
