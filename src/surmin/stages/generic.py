"""Any other module at one point, by `torch.func`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from surmin.stages.attention_kernel import math_attention
from surmin.stages.layer import Layer, flatten


class GenericAtPoint:
    """Jacobian products of an arbitrary differentiable module from one tensor to one tensor."""

    def __init__(self, layer: Layer, inputs: Tensor, parameters: Mapping[str, Tensor]) -> None:
        self.layer = layer
        self.inputs = inputs.detach()
        self.parameters = dict(parameters)

    def parameter_jvp(self, direction: Tensor) -> Tensor:
        """Forward mode in the parameters."""
        if not self.parameters:
            return torch.zeros_like(self._call(self.parameters, self.inputs))
        tangent = self.layer.unflatten(direction)
        with self._named():
            return jvp(lambda parameters: self._call(parameters, self.inputs), (self.parameters,), (tangent,))[1]

    def parameter_vjp(self, cotangent: Tensor) -> Tensor:
        """Reverse mode in the parameters."""
        if not self.parameters:
            return cotangent.new_zeros(0)
        with self._named():
            pull = vjp(lambda parameters: self._call(parameters, self.inputs), self.parameters)[1]
            (gradient,) = pull(cotangent)
        return flatten(list(gradient.values()))

    def input_jvp(self, tangent: Tensor) -> Tensor:
        """Forward mode in the input."""
        with self._named():
            return jvp(lambda inputs: self._call(self.parameters, inputs), (self.inputs,), (tangent,))[1]

    def input_vjp(self, cotangents: Tensor) -> Tensor:
        """Reverse mode in the input, all columns at once."""
        with self._named():
            pull = vjp(lambda inputs: self._call(self.parameters, inputs), self.inputs)[1]
            (columns,) = vmap(pull)(cotangents)
        return columns

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say of which layer it is that torch cannot differentiate it."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            where = f"layer {self.layer.name} ({type(self.layer.module).__name__})"
            reason = str(error).partition("\n")[0]
            raise RuntimeError(f"{where} cannot be differentiated by torch.func: {reason}") from error

    def _call(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        with math_attention():
            return self.layer.forward(inputs, parameters)
