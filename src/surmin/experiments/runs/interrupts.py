"""Ctrl-C, or another interrupt, that lets the round in progress end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from surmin.launch.interrupts import interrupts


@contextmanager
def deferred_interrupt(on_receive: Callable[[], object] = lambda: None) -> Iterator[Callable[[], bool]]:
    """While inside, a first interrupt only makes the given function return True; a second one acts at once.

    Outside the main thread, where signals cannot be received, the function returns False always.

    Args:
        on_receive: called when the first one comes.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {number: signal.getsignal(number) for number in interrupts()}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        restore()
        on_receive()

    for number in previous:
        signal.signal(number, receive)
    try:
        yield lambda: bool(received)
    finally:
        restore()
