"""The signals that ask a run to end in an orderly way, letting the round in progress end first."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

REPEATS = 1.0
"""Seconds after the first interrupt in which others repeat it: a process and its parent may both have been asked."""


def interrupts() -> tuple[signal.Signals, ...]:
    """Ctrl-C, a request to end, and a closed terminal, unless that is ignored because of `nohup`."""
    always = signal.SIGINT, signal.SIGTERM
    return always if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*always, signal.SIGHUP)


@contextmanager
def handled_interrupts(handle: Callable[[int], object]) -> Iterator[Callable[[], None]]:
    """While inside, a function is called with the number of every interrupt that does not repeat the first.

    For the main thread. What is given puts the previous handlers back, as leaving does.
    """
    previous = {number: signal.getsignal(number) for number in interrupts()}
    repeats_until: float | None = None

    def receive(number: int, _frame: FrameType | None) -> None:
        nonlocal repeats_until
        if repeats_until is None:
            repeats_until = time.monotonic() + REPEATS
        elif time.monotonic() < repeats_until:
            return
        handle(number)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield restore
    finally:
        restore()


@contextmanager
def deferred_interrupt(on_receive: Callable[[], object] = lambda: None) -> Iterator[Callable[[], bool]]:
    """While inside, a first interrupt only makes the given function return True; a second one acts at once.

    Outside the main thread, where signals cannot be received, the function always returns False.

    Args:
        on_receive: called when the first one comes.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            on_receive()
        else:
            restore()
            signal.raise_signal(number)

    with handled_interrupts(note) as restore:
        yield lambda: bool(received)
