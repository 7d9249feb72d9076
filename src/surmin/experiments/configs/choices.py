"""Methods and learning rates to try, as given on the command line. Importing this imports no torch."""

import math
from collections.abc import Sequence

from surmin.experiments.configs.lists import names
from surmin.methods.registry import METHODS, default_option, find_method, takes


def parse_methods(text: str) -> list[str]:
    """Method names separated by commas, each once; `all` is every one."""
    found = list(METHODS) if text.strip() == "all" else names(text)
    if not found:
        raise ValueError("name at least one method")
    for name in found:
        find_method(name)
    return found


def parse_rates(items: Sequence[str], methods: Sequence[str]) -> dict[str, Sequence[float | None]]:
    """The learning rates of every method: those named for it, those for all, or its default.

    >>> parse_rates(["0.1,0.3", "adam=0.001"], ["gd", "adam", "sm"])
    {'gd': [0.1, 0.3], 'adam': [0.001], 'sm': [None]}
    """
    rated = [method for method in methods if takes(method, "lr")]
    found: dict[str, list[float]] = {}
    named: set[tuple[str, bool]] = set()
    for item in sorted(items, key=lambda item: "=" in item):
        method, _, values = item.rpartition("=")
        if method and method not in rated:
            raise ValueError(f"--lr {item}: {method!r} is not one of the methods here that take a learning rate")
        if not rated:
            raise ValueError(f"none of the methods {', '.join(methods)} takes --lr")
        for name in [method] if method else rated:
            if (name, bool(method)) in named:
                raise ValueError(f"--lr {item}: {name} has other rates already: separate all of them by commas")
            named.add((name, bool(method)))
            found[name] = list(dict.fromkeys(_rate(value, item) for value in values.split(",")))
    return {
        method: found.get(method) or [default_option(method, "lr") if method in rated else None] for method in methods
    }


def _rate(text: str, item: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"--lr {item}: {text.strip()!r} is not a positive number")
    return rate
