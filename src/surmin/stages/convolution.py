"""A convolution at one point, with its columns folded into the sample axis."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surmin.stages.layer import Layer, flatten


class ConvolutionAtPoint:
    """f = W ∗ z + b for a `Conv2d` of one group with zero padding; J_θ v is the convolution with v's kernel."""

    def __init__(self, layer: Layer, inputs: Tensor, parameters: Mapping[str, Tensor]) -> None:
        assert isinstance(layer.module, nn.Conv2d)
        self.layer = layer
        self.module = layer.module
        self.inputs = inputs
        self.has_bias = "bias" in layer.parameters
        self.weight = parameters.get("weight", layer.module.weight.detach())

    def parameter_jvp(self, direction: Tensor) -> Tensor:
        """V ∗ z + v_b; zero for a frozen layer."""
        if not self.layer.parameters:
            return torch.zeros_like(self.input_jvp(self.inputs))
        tangent = self.layer.unflatten(direction)
        return self._convolve(self.inputs, tangent["weight"], tangent.get("bias"))

    def parameter_vjp(self, cotangent: Tensor) -> Tensor:
        """Gradient of ⟨s, W ∗ z + b⟩ in (W, b); an empty vector for a frozen layer."""
        if not self.layer.parameters:
            return cotangent.new_zeros(0)
        _, weight, _ = self._transposed(cotangent, self.inputs, (False, True, False))
        pieces = [weight]
        if self.has_bias:
            pieces.append(cotangent.sum((0, 2, 3)))
        return flatten(pieces)

    def input_jvp(self, tangent: Tensor) -> Tensor:
        """W ∗ u."""
        return self._convolve(tangent, self.weight, None)

    def input_vjp(self, cotangents: Tensor) -> Tensor:
        """The transposed convolution of every column."""
        k, n = cotangents.shape[:2]
        like = self.inputs.new_empty(1).expand(k * n, *self.inputs.shape[1:])  # only its shape matters
        inputs, _, _ = self._transposed(cotangents.flatten(0, 1), like, (True, False, False))
        return inputs.view(k, n, *self.inputs.shape[1:])

    def kronecker_rows(self, inputs: Tensor) -> Tensor:
        """Input patches as rows (n · positions, in · kernel), for the Kronecker preconditioner's C."""
        module = self.module
        padding = (int(module.padding[0]), int(module.padding[1]))
        patches = F.unfold(inputs, module.weight.shape[2:], module.dilation, padding, module.stride)
        return patches.transpose(1, 2).flatten(0, 1)

    def kronecker_columns(self, columns: Tensor) -> Tensor:
        """Columns as rows (k · n · positions, out), for the Kronecker preconditioner's Ĝ."""
        return columns.movedim(2, -1).flatten(0, -2)

    def _convolve(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        module = self.module
        return torch.conv2d(inputs, weight, bias, module.stride, module.padding, module.dilation, module.groups)

    def _transposed(self, cotangent: Tensor, inputs: Tensor, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
        module = self.module
        result: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            cotangent, inputs, self.weight, None, module.stride, module.padding, module.dilation, False, [0, 0],
            module.groups, wanted,
        )  # fmt: skip
        return result
