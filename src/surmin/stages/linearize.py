"""Choosing the way a layer is linearized: closed forms where there are some, `torch.func` for everything else."""

from torch import Tensor, nn

from surmin.stages.convolution import ConvolutionAtPoint
from surmin.stages.elementwise import ELEMENTWISE, ElementwiseAtPoint
from surmin.stages.generic import GenericAtPoint
from surmin.stages.layer import Layer, LayerAtPoint
from surmin.stages.linear import LinearAtPoint


def linearize(layer: Layer, inputs: Tensor) -> LayerAtPoint:
    """The layer at this input. Subclasses of torch's layers may compute anything, so only exact types take a fast path."""
    module = layer.module
    if type(module) is nn.Linear and layer.all_trainable and inputs.dim() >= 2:
        return LinearAtPoint(layer, inputs)
    if type(module) is nn.Conv2d and layer.all_trainable and _is_plain(module) and inputs.dim() == 4:
        return ConvolutionAtPoint(layer, inputs)
    if type(module) in ELEMENTWISE:
        return ElementwiseAtPoint(layer, inputs)
    return GenericAtPoint(layer, inputs)


def _is_plain(module: nn.Conv2d) -> bool:
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
