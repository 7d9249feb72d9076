"""Checks of option values that several methods take, and of what they need from the loss."""

import math

from surmin.losses import ConvexLoss, GradientOracle


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless an option is a positive number."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless an option is 0 or a positive number."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number from 0 up, got {value}")


def check_inner_steps(steps: int) -> None:
    """Raise ValueError unless a round has an inner step."""
    if steps < 1:
        raise ValueError(f"inner_steps must be at least 1, got {steps}")


def check_columns(rank: int | None, fraction: float) -> None:
    """Raise ValueError for an impossible number of random columns or fraction of the batch."""
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, or left out for the exact factor, got {rank}")
    if not 0 < fraction <= 1:
        raise ValueError(f"curvature_fraction must be in (0, 1], got {fraction}")


def check_has_value(name: str, loss: ConvexLoss, *instead: str) -> None:
    """Raise ValueError for a gradient oracle, naming what can train with it: ways given as `instead`, other methods."""
    if isinstance(loss, GradientOracle):
        others = ", ".join([*instead, "gd, sgd, adam, sso, sm-paper"])
        raise ValueError(
            f"{name} tests its steps by the loss, and a gradient oracle has no loss value: "
            f"use {others}, or a SurrogateMinimizer with adapt_damping=False and enough damping"
        )
