"""Calls in several processes at a time, which end with this one however it ends."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from typing import TypeVar

from surmin.exit_codes import WORKER_LOST
from surmin.launch.interrupts import deferred_interrupt, interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")
REPEAT_SECONDS = 0.2
"""Between two interrupts of a process made here: the first may come before there is anything to receive it."""

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

    An interrupt matters to what is begun alone, and comes from that process, also where a terminal sends it to all. It
    is received once, and ignored before and after that: so it is repeated until something has received it.
    """
    global _stopping
    _stopping = stopping
    for number in set(interrupts()) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(WORKER_LOST)

    def pass_on() -> None:
        stopping.wait()
        while True:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(REPEAT_SECONDS)

    for watch in (end_with_parent, pass_on):
        threading.Thread(target=watch, daemon=True).start()
