"""Choosing how a layer is linearized: in closed form if there is one, otherwise from a recorded forward pass."""

from collections.abc import Mapping

from torch import Tensor

from surmin.stages.closed_form import is_convolution, is_linear, is_plain_elementwise
from surmin.stages.convolution import ConvolutionAtPoint
from surmin.stages.elementwise import ElementwiseAtPoint
from surmin.stages.fixed_map import AveragePoolAtPoint, FlattenAtPoint, is_average_pool, is_flatten
from surmin.stages.generic import GenericAtPoint
from surmin.stages.layer import Layer, LayerAtPoint
from surmin.stages.linear import LinearAtPoint


def linearize(layer: Layer, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> LayerAtPoint:
    """The layer at this input, and at other parameters if given."""
    values = {name: value.detach() for name, value in (parameters or layer.parameters).items()}
    if is_linear(layer) and inputs.dim() >= 2:
        return LinearAtPoint(layer, inputs, values)
    if is_convolution(layer) and inputs.dim() == 4:
        return ConvolutionAtPoint(layer, inputs, values)
    if is_plain_elementwise(layer):
        return ElementwiseAtPoint(layer, inputs)
    if is_flatten(layer):
        return FlattenAtPoint(layer, inputs)
    if is_average_pool(layer) and inputs.dim() == 4:
        return AveragePoolAtPoint(layer, inputs)
    return GenericAtPoint(layer, inputs, values)
