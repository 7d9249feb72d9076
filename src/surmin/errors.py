"""The errors of our own that callers tell apart, and how a wrong name is answered."""

import difflib
from collections.abc import Iterable


class NonFiniteError(ValueError):
    """The loss or its gradient is not finite at the current parameters: training has diverged."""


class AgreedError(ValueError):
    """What all workers have been told, of any of them, before a wave: all can go on."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question to put before a list of known names; empty where none of them is close."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}? " if close else ""
