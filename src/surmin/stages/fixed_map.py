"""Flattening and average pooling at one point: linear maps without parameters, the same at every point."""

import torch
from torch import Tensor, nn

from surmin.stages.layer import Layer, is_as_written


class FixedMapAtPoint:
    """f = A z. Only the shape of z matters."""

    def __init__(self, layer: Layer, inputs: Tensor) -> None:
        self.layer = layer
        self.inputs = inputs

    def parameter_jvp(self, direction: Tensor) -> Tensor:
        """No parameters: zero."""
        return torch.zeros_like(self.input_jvp(self.inputs))

    def parameter_vjp(self, cotangent: Tensor) -> Tensor:
        """No parameters: an empty vector."""
        return cotangent.new_zeros(0)

    def input_jvp(self, tangent: Tensor) -> Tensor:
        """A u."""
        return self.layer.forward(tangent)


class FlattenAtPoint(FixedMapAtPoint):
    """The numbers of z as they are."""

    def input_vjp(self, cotangents: Tensor) -> Tensor:
        """Columns in the shape of z."""
        return cotangents.reshape(len(cotangents), *self.inputs.shape)


class AveragePoolAtPoint(FixedMapAtPoint):
    """The means of windows of z, images (n, channels, height, width)."""

    def input_vjp(self, cotangents: Tensor) -> Tensor:
        """Every window's number spread over it, all columns at once."""
        module = self.layer.module
        assert isinstance(module, nn.AvgPool2d)
        shape = (*cotangents.shape[:2], *self.inputs.shape[1:])
        like = self.inputs.new_empty(1).expand(shape).flatten(0, 1)
        inputs: Tensor = torch.ops.aten.avg_pool2d_backward(
            cotangents.flatten(0, 1), like, module.kernel_size, module.stride, module.padding, module.ceil_mode,
            module.count_include_pad, module.divisor_override,
        )  # fmt: skip
        return inputs.view(shape)


def is_flatten(layer: Layer) -> bool:
    """A plain `Flatten`."""
    return type(layer.module) is nn.Flatten and is_as_written(layer.module)


def is_average_pool(layer: Layer) -> bool:
    """A plain `AvgPool2d`."""
    return type(layer.module) is nn.AvgPool2d and is_as_written(layer.module)
