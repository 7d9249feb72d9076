"""Elementwise activations by name."""

from collections.abc import Callable

from torch import nn

from surmin.models.errors import ModelError

#: Each call makes a fresh module; none works in place.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "identity": nn.Identity,
}


def make_activation(name: str) -> nn.Module:
    """Returns a fresh activation module.

    Raises:
        ModelError: no activation has that name.
    """
    if name not in ACTIVATIONS:
        raise ModelError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
