"""What methods check in a saved state before they continue from it."""

from collections.abc import Iterable, Mapping
from typing import Any

from surmin.methods.common.checks import check_positive
from surmin.stages.stage import Stage
from surmin.value_types import is_whole


def check_keys(state: Mapping[str, Any], keys: Iterable[str], owner: str) -> None:
    """Raise ValueError unless a state has these entries and no others, naming whose it should be."""
    if set(state) != set(keys):
        raise ValueError(f"not the state of {owner}: {sorted(state)}")


def check_seed(saved: int, own: int) -> None:
    """Raise ValueError unless a state was saved with this seed: the draws to come would differ."""
    if saved != own:
        raise ValueError(f"the state was saved with seed {saved}, this method has {own}")


def check_progress(state: Mapping[str, Any]) -> None:
    """Raise ValueError unless a state's round and damping can be those of a run."""
    if not is_whole(state["round"]):
        raise ValueError(f"the state's round must be a whole number from 0 up, got {state['round']!r}")
    check_positive("the state's damping", state["damping"])


def check_stage(stage: Stage, saved_layers: int | None, reason: str) -> None:
    """Raise ValueError if a state is not of a stage here; if no worker does, the cuts are the same.

    Args:
        stage: with layers.
        saved_layers: number of layers in the state's stage that begins with the same layer; None if there is none.
        reason: why other stages will not do.
    """
    if saved_layers != len(stage.layers):
        raise ValueError(
            f"the state is of other stages, none of them of layers {stage.name} to {stage.layers[-1].name}: "
            f"{reason}, so resume with the same stages as before"
        )
