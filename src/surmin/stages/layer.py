"""A layer (one leaf module of the network) and what it can do at one point.

Legend: z the layer's input (n, *in), f its output (n, *out), θ its trainable parameters as one flat vector (P,),
J_z and J_θ the Jacobians of f at (z, θ). Cotangents of several columns carry a leading axis: (k, n, *out).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

LEAF_CHANGED = "leaf Variable that requires grad is being used in an in-place operation"
"""What torch says of it."""


@dataclass(frozen=True)
class Layer:
    """One leaf module, its global name (its index in the whole network) and its trainable parameters."""

    module: nn.Module
    name: str
    parameters: Mapping[str, nn.Parameter] = field(repr=False)
    in_place: bool = False

    @classmethod
    def of(cls, module: nn.Module, name: str) -> "Layer":
        """The layer of a leaf module; frozen parameters are left out and untouched.

        The weight comes first, as closed forms expect: a bias may be registered before it (`prune.remove` does that).
        """
        named = sorted(module.named_parameters(), key=lambda own: own[0] != "weight")
        trainable = {key: value for key, value in named if value.requires_grad}
        return cls(module, name, trainable, any(getattr(part, "inplace", False) for part in module.modules()))

    def __str__(self) -> str:
        return f"layer {self.name} ({type(self.module).__name__})"

    @cached_property
    def _names(self) -> Mapping[str, Sequence[str]]:
        """For every trainable parameter all names that it has in the module; a part with several names counts once."""
        found: dict[int, list[str]] = {id(parameter): [] for parameter in self.parameters.values()}
        places = set()
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            path, _, own = name.rpartition(".")
            place = id(self.module.get_submodule(path)), own
            if id(parameter) in found and place not in places:
                places.add(place)
                found[id(parameter)].append(name)
        return {name: found[id(parameter)] for name, parameter in self.parameters.items()}

    @cached_property
    def size(self) -> int:
        """Number of trainable numbers P."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def forward(self, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """The module's output, at other parameters if given.

        A module that works in place, or contains one, gets a copy, because the input is kept for the curvature.

        Raises:
            ValueError: if the module still changes its input, or the number of samples.
            TypeError: if it does not return one tensor.
        """
        if self.in_place:
            inputs = inputs.clone()
        version = inputs._version
        output = self._run(inputs, parameters)
        if inputs._version != version and not self.in_place:
            raise ValueError(self._in_place_message)
        if not isinstance(output, Tensor):
            raise TypeError(f"{self} returned {type(output).__name__}; a layer must map one tensor to one tensor")
        if output.shape[:1] != inputs.shape[:1]:
            raise ValueError(
                f"{self} turned inputs of shape {tuple(inputs.shape)} into {tuple(output.shape)}, but the first "
                "dimension must stay one row per sample: wrap this layer and the one that restores the shape in one "
                "module"
            )
        return output

    def _run(self, inputs: Tensor, parameters: Mapping[str, Tensor] | None) -> object:
        """What the module returns; errors of its own say where and on what."""
        try:
            if not parameters:
                return self.module(inputs)
            # torch's own way with tied weights leaves a part that has two names with the other values
            values = {name: value for first, value in parameters.items() for name in self._names[first]}
            return functional_call(self.module, values, (inputs,), tie_weights=False)
        except (RuntimeError, IndexError) as error:
            if LEAF_CHANGED in str(error):
                raise ValueError(self._in_place_message) from error
            error.add_note(f"in {self}, on inputs of shape {tuple(inputs.shape)} and type {inputs.dtype}")
            raise

    @property
    def _in_place_message(self) -> str:
        return f"{self} changes its input in place, which the curvature still needs: let it work on a copy"

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """A flat vector (P,) as tensors of the parameters' shapes (views)."""
        sizes = [parameter.numel() for parameter in self.parameters.values()]
        pieces = vector.split(sizes)
        return {
            name: piece.view(parameter.shape)
            for (name, parameter), piece in zip(self.parameters.items(), pieces, strict=True)
        }

    def moved(self, step: Tensor) -> dict[str, Tensor]:
        """The parameters moved by a flat step (P,), as new tensors that require gradients."""
        return {
            name: (self.parameters[name].detach() + move).requires_grad_()
            for name, move in self.unflatten(step).items()
        }


class LayerAtPoint(Protocol):
    """A layer linearized at one input: products with its Jacobians, never the Jacobians themselves."""

    def parameter_jvp(self, direction: Tensor) -> Tensor:
        """J_θ v: a flat vector (P,) to a tangent of the output (n, *out)."""

    def parameter_vjp(self, cotangent: Tensor) -> Tensor:
        """J_θᵀ s summed over samples: (n, *out) to a flat vector (P,)."""

    def input_jvp(self, tangent: Tensor) -> Tensor:
        """J_z u: (n, *in) to (n, *out)."""

    def input_vjp(self, cotangents: Tensor) -> Tensor:
        """J_zᵀ r for every column: (k, n, *out) to (k, n, *in)."""


@runtime_checkable
class KroneckerPoint(LayerAtPoint, Protocol):
    """A layer that multiplies its input by a weight matrix, so that J_θᵀ r is a sum of outer products."""

    inputs: Tensor
    """The layer's input at this point."""
    has_bias: bool
    """Whether the flat parameter vector ends with a bias."""

    def kronecker_rows(self, inputs: Tensor) -> Tensor:
        """What the weight matrix multiplies for some inputs, as rows (n · positions, in)."""

    def kronecker_columns(self, columns: Tensor) -> Tensor:
        """Columns (k, n, *out) as rows (k · n · positions, out)."""


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """One flat vector out of tensors of any shapes."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def is_as_written(module: nn.Module) -> bool:
    """Whether the module computes what its class says: without hooks, and without its own `forward`."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
