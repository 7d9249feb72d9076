"""Lists on the command line, separated by commas."""

import math


def names(text: str) -> list[str]:
    """Words separated by commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def numbers(option: str, text: str, *, zero_allowed: bool = False) -> list[float]:
    """Numbers separated by commas, each once, in the order given.

    Raises:
        ValueError: if any is not a positive number, or there are none.

    >>> numbers("rates", "1000, 20")
    [1000.0, 20.0]
    """
    found = []
    for word in names(text):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not (0 < value < math.inf or (zero_allowed and value == 0)):
            raise ValueError(f"{option}: {word!r} is not a positive number")
        found.append(value)
    if not found:
        raise ValueError(f"{option}: give at least one number")
    return list(dict.fromkeys(found))


def counts(option: str, text: str, *, may_be_empty: bool = False, zero_allowed: bool = False) -> list[int]:
    """Whole numbers from 1, or from 0 if that is allowed, separated by commas, each once."""
    if may_be_empty and not names(text):
        return []
    found = numbers(option, text, zero_allowed=zero_allowed)
    for value in found:
        if not value.is_integer():
            raise ValueError(f"{option}: {value:g} is not a whole number")
    return [int(value) for value in found]
