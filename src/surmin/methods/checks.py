"""Values of options that several methods take."""

import math


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless an option is a positive number."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value}")


def check_columns(rank: int | None, fraction: float) -> None:
    """Raise ValueError for a number of random columns or a part of the batch that cannot be."""
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, or left out for the exact factor, got {rank}")
    if not 0 < fraction <= 1:
        raise ValueError(f"curvature_fraction must be in (0, 1], got {fraction}")
