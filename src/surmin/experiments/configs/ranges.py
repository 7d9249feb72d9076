"""Which values of options are unknown, too small, too large or given twice. Importing this imports no torch."""

from collections.abc import Collection
from typing import Any

from surmin.errors import did_you_mean
from surmin.own_code import is_own

MOST = {
    "layers": 100_000, "width": 1_000_000, "stages": 100_000, "workers": 1024, "microbatches": 1_000_000,
    "threads": 1024, "rounds": 10**12, "batch_size": 10**12, "evaluate_every": 10**12, "inner_steps": 10**9,
    "rank": 10**9, "seed": 2**32 - 1, "seeds": 10_000, "jobs": 1024, "trials": 10**9, "training_rounds": 10**9,
    "directions": 10**6, "lanczos_steps": 10**6,
}  # fmt: skip
"""Largest values of options: beyond them something overflows, or a machine is overwhelmed.

torch's CPU generator uses 32 bits of a seed: a larger seed would repeat a smaller one's network."""
LARGEST_RATE = 1e38
"""Larger learning rates are infinite in float32."""


def check_known(option: str, name: str, known: Collection[str], own: str) -> None:
    """Raise ValueError if a name is neither known nor of the form of one's own."""
    if name not in known and not is_own(name):
        raise ValueError(
            f"unknown {option} {name!r}: {did_you_mean(name, known)}choose {', '.join(known)}, or {own} of your own"
        )


def check_least(config: Any, **bounds: int) -> None:
    """Raise ValueError if a given option is smaller than its bound."""
    for name, bound in bounds.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise ValueError(f"{name} must be at least {bound}, got {value}")


def check_distinct(config: Any, *names: str) -> None:
    """Raise ValueError unless an option is a list of different numbers from 1 up."""
    for name in names:
        values = getattr(config, name)
        if not values or min(values) < 1 or len(set(values)) < len(values):
            raise ValueError(f"{name} must be one or more different whole numbers from 1 up, got {list(values)}")


def check_most(config: Any) -> None:
    """Raise ValueError if an option is larger than `MOST` allows."""
    for name, bound in MOST.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and value > bound:
            raise ValueError(f"{name} must be at most {bound:,}, got {value:,}")


def check_rate(name: str, rate: float, dtype: str) -> None:
    """Raise ValueError if a learning rate, given as that option, is infinite in this dtype."""
    if rate > LARGEST_RATE and dtype == "float32":
        raise ValueError(f"{name} must be at most {LARGEST_RATE:g} in float32, got {rate:g}")
