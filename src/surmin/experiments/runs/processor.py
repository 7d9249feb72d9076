"""How torch computes in our own processes: the command line's and its workers'."""

import warnings

import torch

NO_CONTEXT = "Attempting to run cuBLAS"
"""Start of torch's warning that its gradient thread is the first to use cuBLAS, which does no harm."""


def set_up_processor(threads: int) -> None:
    """Use so many threads, and treat numbers below the smallest normal one as zero.

    Deep networks make many of those, which slow some CPUs down.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def warm_up(device: torch.device) -> None:
    """Let torch now import and open what it does at the first gradient: half a second that is no method's work."""
    point = torch.ones(1, 1, device=device, requires_grad=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NO_CONTEXT)
        torch.autograd.grad(point @ point, point, torch.ones_like(point))
