"""Values of options that several methods take, and what they ask of the loss."""

import math
from collections.abc import Mapping
from typing import Any

from surmin.losses import ConvexLoss, GradientOracle


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


def check_seed(saved: int, own: int) -> None:
    """Raise ValueError unless a state was saved with this seed: the draws to come would be others."""
    if saved != own:
        raise ValueError(f"the state was saved with seed {saved}, this method has {own}")


def check_progress(state: Mapping[str, Any]) -> None:
    """Raise ValueError unless a state's round and damping can be those of a run."""
    if type(state["round"]) is not int or state["round"] < 0:
        raise ValueError(f"the state's round must be a whole number from 0 up, got {state['round']!r}")
    check_positive("the state's damping", state["damping"])


def check_has_value(name: str, loss: ConvexLoss, *instead: str) -> None:
    """Raise ValueError for a gradient oracle, naming what can train with it: more ways `instead`, and other methods."""
    if isinstance(loss, GradientOracle):
        others = ", ".join([*instead, "gd, sgd, adam, sso, sm-paper"])
        raise ValueError(
            f"{name} tests its steps by the loss, and a gradient oracle has no loss value: "
            f"take {others}, or a SurrogateMinimizer with adapt_damping=False and enough damping"
        )
