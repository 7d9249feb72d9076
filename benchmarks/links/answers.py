"""What processes that work together print until they end."""

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any


def answers_of(workers: Sequence["subprocess.Popen[Any]"], seconds: float) -> list[str]:
    """Of each its output, read from all at the same time, so that none waits to be heard; afterwards all have ended.

    Raises:
        RuntimeError: when one of them failed.
        TimeoutExpired: when one takes longer than so many seconds.
    """
    with ThreadPoolExecutor(len(workers)) as readers, ExitStack() as ends:
        for worker in workers:
            ends.enter_context(worker)
            ends.callback(worker.kill)
        said = list(readers.map(lambda worker: worker.communicate(timeout=seconds)[0], workers))
    if any(worker.returncode for worker in workers):
        raise RuntimeError("a process over the links failed: what it wrote to stderr says why")
    return said
