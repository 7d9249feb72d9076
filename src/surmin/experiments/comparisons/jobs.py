"""Calls in several processes at a time, which end with this one however it ends."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from typing import TypeVar

from surmin.exit_codes import WORKER_LOST
from surmin.experiments.runs.interrupts import deferred_interrupt

Item = TypeVar("Item")
Result = TypeVar("Result")

_stopping: Event | None = None
"""In processes made here: set when they are to begin nothing more."""


def each(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """What the function makes of every item, in order; with one job here, with more in processes of their own.

    These are interrupted as this one is, and begin nothing more then.

    Raises:
        KeyboardInterrupt: for the first item that was not begun any more.
    """
    if jobs == 1:
        yield from map(function, items)
        return
    context = get_context("spawn")
    stopping = context.Event()
    with (
        deferred_interrupt(stopping.set),
        ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare, initargs=(stopping,)) as pool,
    ):
        try:
            yield from pool.map(partial(_unless_stopping, function), items)
        finally:
            stopping.set()
            pool.shutdown(cancel_futures=True)


def _unless_stopping(function: Callable[[Item], Result], item: Item) -> Result:
    assert _stopping is not None
    if _stopping.is_set():
        raise KeyboardInterrupt
    return function(item)


def _prepare(stopping: Event) -> None:
    """End this process, whatever it is doing, when the one that started it is gone: killed, it cannot say so.

    An interrupt matters to what is begun alone, and comes from that process too, where a person interrupts only that.
    """
    global _stopping
    _stopping = stopping
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(WORKER_LOST)

    def pass_on() -> None:
        stopping.wait()
        os.kill(os.getpid(), signal.SIGINT)

    for watch in (end_with_parent, pass_on):
        threading.Thread(target=watch, daemon=True).start()
