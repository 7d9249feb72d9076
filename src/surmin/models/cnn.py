"""Small convolutional network."""

from collections.abc import Sequence

from torch import nn

from surmin.models.activations import make_activation
from surmin.models.errors import ModelError, require_positive

SMALLEST_POOLED_SIDE = 4


def cnn(input_shape: Sequence[int], outputs: int, layers: int, width: int, activation: str = "relu") -> nn.Sequential:
    """Returns `layers` - 1 convolutions, each with activation and pooling, then flatten and a linear layer.

    Convolutions are 3 x 3 with padding 1; each is followed by 2 x 2 average pooling as long as both sides of the image
    are at least 4 pixels.

    Args:
        input_shape: (channels, height, width) of one sample; outputs are (n, outputs).
        outputs: number of outputs, usually classes.
        layers: number of layers with weights, the last linear one included.
        width: channels of every convolution's output.
        activation: a key of `ACTIVATIONS`.

    Raises:
        ModelError: samples that are not images, a size below 1 or an unknown activation.
    """
    if len(input_shape) != 3:
        raise ModelError(f"cnn needs images (channels, height, width), got samples of shape {tuple(input_shape)}")
    channels, *sides = input_shape
    require_positive(channels=channels, side=min(sides), outputs=outputs, layers=layers, width=width)
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Conv2d(channels, width, kernel_size=3, padding=1), make_activation(activation)]
        channels = width
        if min(sides) >= SMALLEST_POOLED_SIDE:
            modules.append(nn.AvgPool2d(2))
            sides = [side // 2 for side in sides]
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], outputs))
