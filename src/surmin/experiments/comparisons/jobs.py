"""Calls in several processes at a time, which end with this one however it ends."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import TypeVar

from surmin.exit_codes import WORKER_LOST

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """What the function makes of every item, in order; with one job here, with more in processes of their own."""
    if jobs == 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            yield from pool.map(function, items)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """End this process, whatever it is doing, when the one that started it is gone: killed, it cannot say so."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(WORKER_LOST)

    threading.Thread(target=watch, daemon=True).start()
