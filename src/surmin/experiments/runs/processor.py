"""How torch computes on the processor in processes that are ours: the command line's and its workers'."""

import torch


def set_up_processor(threads: int) -> None:
    """So many threads, and numbers below the smallest normal one taken for zero.

    Deep networks make many of those, with which some processors are slow.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
