"""How torch computes on the CPU in our own processes: the command line's and its workers'."""

import torch


def set_up_processor(threads: int) -> None:
    """Use so many threads, and treat numbers below the smallest normal one as zero.

    Deep networks make many of those, which slow some CPUs down.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
