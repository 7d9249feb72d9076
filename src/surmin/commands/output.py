"""The standard streams, whose reader or terminal may go away before the work is done. Imports no torch."""

import os
import sys
from contextlib import suppress


def say(message: str) -> None:
    """One line on standard error, if that can still be written to."""
    with suppress(OSError):
        print(f"surmin: {message}", file=sys.stderr)


def flush_output() -> None:
    """Write what standard output holds back.

    Raises:
        BrokenPipeError: if nothing reads it any more.
    """
    print(end="", flush=True)


def drop_lost_output() -> None:
    """Let go of what cannot be written: Python would try again when it ends, and return an exit code of its own."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
