"""The state of torch's optimizers by the parameters' global names: it does not depend on how a model is cut."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from torch.optim import Optimizer


def named_state(optimizer: Optimizer, names: Iterable[str]) -> dict[str, Any]:
    """A copy of what the optimizer remembers, by parameter; `names` in the order in which it got the parameters."""
    names = list(names)
    return {names[index]: deepcopy(values) for index, values in optimizer.state_dict()["state"].items()}


def load_named_state(optimizer: Optimizer, names: Iterable[str], state: Mapping[str, Any]) -> None:
    """Take up a state that `named_state` returned.

    Raises:
        ValueError: when it belongs to other parameters; nothing has changed then.
    """
    index = {name: position for position, name in enumerate(names)}
    foreign = sorted(set(state) - set(index))
    if foreign:
        raise ValueError(f"the optimizer's state is for parameters this network does not have: {', '.join(foreign)}")
    packed = {index[name]: deepcopy(values) for name, values in state.items()}
    optimizer.load_state_dict({"state": packed, "param_groups": optimizer.state_dict()["param_groups"]})
