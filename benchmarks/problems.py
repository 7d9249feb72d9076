"""The data and networks that benchmarks train on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import CannotRunError, Settings
from surmin.data import Dataset, load_dataset
from surmin.models import mlp
from tests.mnist_files import ABSENT, mnist_folder

IMAGE = (1, 28, 28)
CLASSES = 10


@dataclass(frozen=True)
class Problem:
    """Data, and a network to be trained on it.

    Attributes:
        name: for tables.
        inputs: the whole training data.
        targets: class numbers, of every sample or of every position of a sample.
        build: makes the network, initialised at random.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    build: Callable[[], nn.Sequential]

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.inputs.device

    def network(self, seed: int) -> nn.Sequential:
        """The network at the initial values of a seed."""
        torch.manual_seed(seed)
        return self.build().to(self.device)

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """The training loss, apart from what a method says about it; its mean in float64, to tell small changes."""
        return float(cross_entropy(model(self.inputs).double(), self.targets))


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples and positions."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


@lru_cache(maxsize=2)
def mnist(samples: int | None, device: torch.device) -> Dataset:
    """The first so many training images, and all test images.

    Raises:
        CannotRunError: where MNIST is not.
    """
    folder = mnist_folder()
    if folder is None:
        raise CannotRunError(ABSENT)
    return load_dataset("mnist", data_dir=folder, train_samples=samples).to(device)


def mnist_mlp(settings: Settings, layers: int, width: int = 64, activation: str = "relu") -> Problem:
    """An MLP on MNIST's first 5,000 images; a quick run has 1,000 and at most 4 layers of width 32."""
    data = mnist(1000 if settings.quick else 5000, settings.device)
    layers, width = (min(layers, 4), min(width, 32)) if settings.quick else (layers, width)
    name = f"{activation} {layers} × {width}"
    return Problem(name, data.train_inputs, data.train_targets, lambda: mlp(IMAGE, CLASSES, layers, width, activation))


def gaussian_mlp(
    device: torch.device, layers: int, width: int, samples: int, *, features: int = 784, classes: int = CLASSES
) -> Problem:
    """An MLP on Gaussian inputs, labelled by a random linear map: made anywhere, in any size."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, features, generator=generator)
    labels = (inputs @ torch.randn(features, classes, generator=generator)).argmax(1)
    name = f"gaussian data, relu {layers} × {width}"
    return Problem(name, inputs.to(device), labels.to(device), lambda: mlp((features,), classes, layers, width))


def batches(inputs: Tensor, targets: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches without end, equal for equal seeds; what does not fill the last batch of a pass is left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        for rows in order.split(size):
            if len(rows) == size:
                yield inputs[rows], targets[rows]
