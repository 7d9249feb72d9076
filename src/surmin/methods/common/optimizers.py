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
from surmin.methods.common.saved_states import check_keys

OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "gd": torch.optim.SGD,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
}


def make_optimizer(parameters: Iterable[nn.Parameter], name: str, lr: float) -> Optimizer:
    """Gradient descent, SGD with momentum 0.9, or Adam with torch's defaults; there may be no parameters.

    Raises:
        ValueError: for an unknown name, or a learning rate that is not positive.
    """
    check_positive("lr", lr)
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: choose {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]([{"params": list(parameters)}], lr=lr)


def step_along(optimizer: Optimizer, gradients: Gradients) -> None:
    """One step; no gradients are kept, and parameters without a gradient here stay as they are, whatever they had."""
    optimizer.zero_grad()
    assign_gradients(gradients)
    optimizer.step()
    optimizer.zero_grad()


def optimizer_state(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """A copy of an optimizer's kind, and for each of these parameters of its memory and settings, by their names.

    Settings are numbers such as the learning rate, which a schedule may have changed.
    """
    packed, places = optimizer.state_dict(), _places(optimizer, parameters)
    memory, settings = packed["state"], {at: _numbers(own) for own in packed["param_groups"] for at in own["params"]}
    return {
        "kind": _kind(optimizer),
        "memory": {name: deepcopy(memory[place]) for name, place in places.items() if place in memory},
        "settings": {name: dict(settings[place]) for name, place in places.items()},
    }


def load_optimizer_state(optimizer: Optimizer, parameters: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Load what `optimizer_state` returned.

    Raises:
        ValueError: if it belongs to other parameters or to another optimizer, or parameters in one group here had
            different settings; nothing has changed then.
    """
    check_keys(state, {"kind", "memory", "settings"}, "an optimizer")
    if state["kind"] != _kind(optimizer):
        raise ValueError(f"the state is of {state['kind']}, this method has {_kind(optimizer)}")
    index = _places(optimizer, parameters)
    _check_memory(optimizer, index, state["memory"])
    settings = {index[name]: own for name, own in state["settings"].items() if name in index}
    groups = optimizer.state_dict()["param_groups"]
    for group in groups:
        group |= _settings_of(group["params"], settings)
    memory = {index[name]: deepcopy(values) for name, values in state["memory"].items()}
    optimizer.load_state_dict({"state": memory, "param_groups": groups})


def _kind(optimizer: Optimizer) -> str:
    momentum = any(group.get("momentum") for group in optimizer.param_groups)
    return type(optimizer).__name__ + " with momentum" * momentum


def _check_memory(optimizer: Optimizer, index: Mapping[str, int], memory: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError unless it is of such an optimizer over these parameters."""
    foreign = sorted(set(memory) - set(index))
    if foreign:
        raise ValueError(f"the optimizer's state is for parameters this network does not have: {', '.join(foreign)}")
    remembered = _remembered(optimizer)
    for name, values in memory.items():
        found, wanted = _kinds(values), remembered.get(index[name], {})
        if found != wanted:
            kind = type(optimizer).__name__
            raise ValueError(
                f"the optimizer's state of {name} has {found} where {kind} has {wanted} here: it is of "
                "another optimizer or another network"
            )


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
    """Each of these parameters' number in the optimizer's state, which may have others too, in any order."""
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    place = {parameter: number for number, parameter in enumerate(given)}
    return {name: place[parameter] for name, parameter in parameters.items() if parameter in place}


def _remembered(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """The types and shapes of what it remembers about each parameter after a step, tried on a copy."""
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
