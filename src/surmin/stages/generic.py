"""Any other module at one point, by automatic differentiation of one recorded forward pass."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from surmin.stages.layer import Layer, flatten
from surmin.stages.recorded import check_transpose, naming, pull, recording


class GenericAtPoint:
    """Jacobian products of an arbitrary differentiable module from one tensor to one tensor.

    The module runs once. What products of a kind need from it is recorded when the first is asked for, and kept.
    """

    def __init__(self, layer: Layer, inputs: Tensor, parameters: Mapping[str, Tensor]) -> None:
        self.layer = layer
        self.inputs = inputs.detach().requires_grad_(inputs.is_floating_point())
        self.parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}

    def parameter_jvp(self, direction: Tensor) -> Tensor:
        """Reverse mode twice in the parameters."""
        if not self.parameters:
            return torch.zeros_like(self._output)
        return self._push(self._parameter_gradient, list(self.layer.unflatten(direction).values()))

    def parameter_vjp(self, cotangent: Tensor) -> Tensor:
        """Reverse mode in the parameters."""
        if not self.parameters:
            return cotangent.new_zeros(0)
        return flatten(self._pull(self._values, cotangent))

    def input_jvp(self, tangent: Tensor) -> Tensor:
        """Reverse mode twice in the input."""
        return self._push(self._input_gradient, [tangent])

    def input_vjp(self, cotangents: Tensor) -> Tensor:
        """Reverse mode in the input, column by column: `vmap` is no faster and refuses some modules."""
        return torch.stack([self._pull([self.inputs], cotangent)[0] for cotangent in cotangents])

    def record(self) -> None:
        """Record now what products in the parameters need, so that the first costs no more than the others."""
        _ = self._parameter_gradient

    @property
    def _values(self) -> list[Tensor]:
        return list(self.parameters.values())

    @cached_property
    def _output(self) -> Tensor:
        with naming(self.layer), recording():
            return self.layer.forward(self.inputs, self.parameters)

    @cached_property
    def _cotangent(self) -> Tensor:
        """s, the variable of s ↦ Jᵀ s; its value only matters to `check_transpose`."""
        output = self._output
        numbers = torch.arange(output.numel(), device=output.device, dtype=output.dtype)
        return numbers.cos().view(output.shape).requires_grad_()

    @cached_property
    def _parameter_gradient(self) -> Sequence[Tensor]:
        return self._gradient(self._values)

    @cached_property
    def _input_gradient(self) -> Sequence[Tensor]:
        return self._gradient([self.inputs])

    def _gradient(self, targets: Sequence[Tensor]) -> Sequence[Tensor]:
        """Jᵀ s, recorded."""
        gradient = self._pull(targets, self._cotangent, record=True)
        with naming(self.layer):
            check_transpose(self._output, gradient, self._cotangent)
        return gradient

    def _pull(self, targets: Sequence[Tensor], cotangent: Tensor, *, record: bool = False) -> Sequence[Tensor]:
        with naming(self.layer):
            return pull([self._output], targets, [cotangent], record=record)

    def _push(self, gradient: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensor:
        with naming(self.layer):
            return pull(gradient, [self._cotangent], tangents)[0]
