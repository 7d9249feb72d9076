"""Calls in several processes at a time, which end with this one however it ends."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import Connection
from typing import TypeVar

from surmin.exit_codes import WORKER_LOST
from surmin.launch.interrupts import deferred_interrupt, interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")
REPEAT_SECONDS = 0.2
"""Between two interrupts of a process made here: the first may come before anything can receive it."""

_stopping: Connection | None = None
"""In processes made here: at its end when they must begin nothing more. An event would wait for those killed."""
_received: int | None = None
"""In processes made here: a file with a byte for every interrupt that what was begun has received."""


def each(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """The function's result for every item, in order; with one job here, with more in separate processes.

    They are interrupted when this one is, and then begin nothing more.

    Raises:
        KeyboardInterrupt: at the first item that was no longer begun.
    """
    if jobs == 1:
        yield from map(function, items)
        return
    context = get_context("spawn")
    stopping, stop = context.Pipe(duplex=False)
    others = set(active_children())
    with (
        stopping,
        deferred_interrupt(stop.close),
        ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare, initargs=(stopping,)) as pool,
    ):
        try:
            results = pool.map(partial(_unless_stopping, function), items)
            pool.submit(os.getpid)  # a submission has the pool look at the processes of those before it
            yield from results
        except BrokenProcessPool:
            for process in set(active_children()) - others:  # the pool only asks them to end, which they ignore
                process.kill()
            raise
        finally:
            stop.close()
            pool.shutdown(cancel_futures=True)


def _unless_stopping(function: Callable[[Item], Result], item: Item) -> Result:
    assert _stopping is not None and _received is not None
    if _stopping.poll() or select.select([_received], [], [], 0)[0]:
        raise KeyboardInterrupt
    return function(item)


def _prepare(stopping: Connection) -> None:
    """End this process, whatever it is doing, when the one that started it is gone: killed, it cannot say so.

    Interrupts matter only to what is begun, and come from that process, even when a terminal sends them to all. One is
    received once, and ignored before and after: so it is repeated until something has received it. What a terminal
    sends may be received here long before that process has its turn.
    """
    global _stopping, _received
    _stopping = stopping
    _received, receiving = os.pipe()
    os.set_blocking(receiving, False)
    signal.set_wakeup_fd(receiving, warn_on_full_buffer=False)
    for number in interrupts():
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(WORKER_LOST)

    def pass_on() -> None:
        stopping.poll(None)
        while True:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(REPEAT_SECONDS)

    for watch in (end_with_parent, pass_on):
        threading.Thread(target=watch, daemon=True).start()
