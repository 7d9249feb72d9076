"""Which layers compute exactly what their type says, so that a closed form can stand in for them.

Subclasses, hooks and parametrizations may compute anything: only exact types with nothing hooked on qualify.
"""

from torch import nn

from surmin.stages.elementwise import ELEMENTWISE
from surmin.stages.layer import Layer, is_as_written


def is_linear(layer: Layer) -> bool:
    """z Wᵀ + b, all of it trainable or all of it frozen."""
    return type(layer.module) is nn.Linear and _trains_all_or_nothing(layer) and is_as_written(layer.module)


def is_convolution(layer: Layer) -> bool:
    """A `Conv2d` of one group with zero padding, all of it trainable or all of it frozen."""
    module = layer.module
    if type(module) is not nn.Conv2d or not _trains_all_or_nothing(layer) or not is_as_written(module):
        return False
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def is_plain_linear(layer: Layer) -> bool:
    """z Wᵀ + b, all of it trainable."""
    return bool(layer.parameters) and is_linear(layer)


def is_plain_convolution(layer: Layer) -> bool:
    """A `Conv2d` of one group with zero padding, all of it trainable."""
    return bool(layer.parameters) and is_convolution(layer)


def is_plain_elementwise(layer: Layer) -> bool:
    """One of torch's activations without parameters."""
    return type(layer.module) in ELEMENTWISE and is_as_written(layer.module)


def _trains_all_or_nothing(layer: Layer) -> bool:
    everything = ["weight"] if layer.module.bias is None else ["weight", "bias"]
    return list(layer.parameters) in (everything, [])
