"""torch's optimizers: made by name, stepped along gradients, their state by the parameters' global names."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surmin.methods.common.checks import check_positive
from surmin.methods.common.gradients import Gradients, assign_gradients

OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "gd": torch.optim.SGD,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
}


def make_optimizer(parameters: Iterable[nn.Parameter], name: str, lr: float) -> Optimizer:
    """Gradient descent, SGD with momentum 0.9, or Adam with torch's defaults; there may be no parameters.

    Raises:
        ValueError: for another name, or a learning rate that is not positive.
    """
    check_positive("lr", lr)
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: choose {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]([{"params": list(parameters)}], lr=lr)


def step_along(optimizer: Optimizer, gradients: Gradients) -> None:
    """One step; the parameters keep no gradients, and those without one here stay as they are, whatever they had."""
    optimizer.zero_grad()
    assign_gradients(gradients)
    optimizer.step()
    optimizer.zero_grad()


def named_state(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """A copy of what the optimizer remembers of these parameters, by their names."""
    remembered = optimizer.state_dict()["state"]
    places = _places(optimizer, parameters)
    return {name: deepcopy(remembered[place]) for name, place in places.items() if place in remembered}


def load_named_state(optimizer: Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Take up a state that `named_state` returned.

    Raises:
        ValueError: when it belongs to other parameters or to another optimizer; nothing has changed then.
    """
    index = _places(optimizer, parameters)
    foreign = sorted(set(state) - set(index))
    if foreign:
        raise ValueError(f"the optimizer's state is for parameters this network does not have: {', '.join(foreign)}")
    remembered = _remembered(optimizer)
    for name, values in state.items():
        found, wanted = _kinds(values), remembered.get(index[name], {})
        if found != wanted:
            kind = type(optimizer).__name__
            raise ValueError(
                f"the optimizer's state of {name} has {found} where {kind} has {wanted} here: it is of "
                "another optimizer or another network"
            )
    packed = {index[name]: deepcopy(values) for name, values in state.items()}
    optimizer.load_state_dict({"state": packed, "param_groups": optimizer.state_dict()["param_groups"]})


def _places(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of each of these parameters in the optimizer's state: it may have others too, in any order."""
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    place = {parameter: number for number, parameter in enumerate(given)}
    return {name: place[parameter] for name, parameter in parameters.items() if parameter in place}


def _remembered(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """The types and shapes of what it remembers of each parameter after a step, which copies take."""
    trial = deepcopy(optimizer)
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    return {index: _kinds(values) for index, values in trial.state_dict()["state"].items()}


def _kinds(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: (value.dtype, list(value.shape)) if isinstance(value, Tensor) else type(value)
        for name, value in values.items()
    }
