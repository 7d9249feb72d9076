import pytest
import torch
from torch import nn

from surmin.models import ModelError, cnn


@pytest.mark.parametrize("layers", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 9, 5), (2, 1, 1)])
def test_shapes(layers: int, shape: tuple[int, int, int]) -> None:
    model = cnn(shape, outputs=10, layers=layers, width=4)
    assert sum(isinstance(module, nn.Conv2d) for module in model) == layers - 1
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


def test_images_shrink_only_while_they_are_large_enough() -> None:
    model = cnn((1, 28, 28), outputs=10, layers=6, width=4)
    assert sum(isinstance(module, nn.AvgPool2d) for module in model) == 3
    last = model[-1]
    assert isinstance(last, nn.Linear) and last.in_features == 4 * 3 * 3


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8, 8)])
def test_images_are_needed(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"cnn needs images \(channels, height, width\), got samples of shape"):
        cnn(shape, outputs=10, layers=2, width=4)


@pytest.mark.parametrize("name", ["outputs", "layers", "width"])
def test_sizes_below_one(name: str) -> None:
    sizes = {"outputs": 10, "layers": 2, "width": 4, name: -1}
    with pytest.raises(ModelError, match=f"{name} must be at least 1, got -1"):
        cnn((1, 8, 8), **sizes)


def test_an_unknown_activation() -> None:
    with pytest.raises(ModelError, match="unknown activation"):
        cnn((1, 8, 8), outputs=10, layers=2, width=4, activation="swish")
