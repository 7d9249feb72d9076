"""Our own errors that callers distinguish, and suggestions for a wrong name."""

import difflib
from collections.abc import Iterable


class NonFiniteError(ValueError):
    """The loss or its gradient is not finite at the current parameters: training has diverged."""


class AgreedError(ValueError):
    """An error that all workers have been told about before a wave: all can go on."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question to put before a list of known names; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}? " if close else ""


def as_value_error(about: str, error: Exception) -> ValueError:
    """A ValueError that names another error, its cause: unlike that one, all workers can be told of it."""
    found = ValueError(f"{about}: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found
