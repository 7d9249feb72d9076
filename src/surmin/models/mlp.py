"""Multi-layer perceptron."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from surmin.models.activations import make_activation
from surmin.models.errors import require_positive


def mlp(input_shape: Sequence[int], outputs: int, layers: int, width: int, activation: str = "relu") -> nn.Sequential:
    """Returns flatten, then `layers` linear layers with `activation` between them (none after the last).

    Args:
        input_shape: shape of one sample, of any number of axes; outputs are (n, outputs).
        outputs: number of outputs, usually classes.
        layers: number of linear layers; 1 is a linear model.
        width: size of every hidden layer.
        activation: a key of `ACTIVATIONS`.

    Raises:
        ModelError: a size below 1 or an unknown activation.

    Examples:
        >>> mlp((1, 8, 8), outputs=10, layers=2, width=32)
        Sequential(
          (0): Flatten(start_dim=1, end_dim=-1)
          (1): Linear(in_features=64, out_features=32, bias=True)
          (2): ReLU()
          (3): Linear(in_features=32, out_features=10, bias=True)
        )
    """
    inputs = math.prod(input_shape)
    require_positive(inputs=inputs, outputs=outputs, layers=layers, width=width)
    sizes = [inputs, *[width] * (layers - 1)]
    modules: list[nn.Module] = [nn.Flatten()]
    for size, next_size in pairwise(sizes):
        modules += [nn.Linear(size, next_size), make_activation(activation)]
    return nn.Sequential(*modules, nn.Linear(sizes[-1], outputs))
