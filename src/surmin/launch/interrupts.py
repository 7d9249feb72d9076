"""The signals that ask a run to end in order, and letting the round in progress end first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def interrupts() -> tuple[signal.Signals, ...]:
    """Ctrl-C, an end asked for, and a terminal that is closed: unless `nohup` has seen to it that this is ignored."""
    always = signal.SIGINT, signal.SIGTERM
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    return always if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN else (*always, hangup)


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
