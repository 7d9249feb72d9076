"""torch's optimizers: made by name, stepped along gradients, their state by the parameters' global names."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import partial
from types import MappingProxyType
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


def named_settings(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The numbers that an optimizer goes by for each of these parameters: its learning rate and their like."""
    settings = {place: _numbers(group) for group in optimizer.state_dict()["param_groups"] for place in group["params"]}
    return {name: dict(settings[place]) for name, place in _places(optimizer, parameters).items()}


def load_named_state(
    optimizer: Optimizer,
    parameters: Mapping[str, Tensor],
    state: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """Take up a state that `named_state` returned, and settings of `named_settings`.

    Raises:
        ValueError: when it belongs to other parameters or to another optimizer, or parameters of one group here had
            different settings; nothing has changed then.
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
    groups = optimizer.state_dict()["param_groups"]
    for group in groups:
        group |= _settings_of(group["params"], {index[name]: own for name, own in settings.items() if name in index})
    packed = {index[name]: deepcopy(values) for name, values in state.items()}
    optimizer.load_state_dict({"state": packed, "param_groups": groups})


def _settings_of(places: Iterable[int], settings: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What the parameters of a group have in common."""
    found = [settings[place] for place in places if place in settings]
    if any(own != found[0] for own in found):
        raise ValueError("parameters that are in one group of the optimizer here were saved with different settings")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in (found or [{}])[0].items()}


def _numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: value for name, value in group.items() if type(value) in (int, float)}
    return numbers | {name: list(value) for name, value in group.items() if isinstance(value, tuple)}


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
