"""From a configuration to data, a network and its pipeline."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surmin.data import Dataset, load_dataset
from surmin.experiments.config import ExperimentConfig
from surmin.experiments.metrics import Evaluation
from surmin.losses import CrossEntropy
from surmin.models import build_model
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from surmin.stages.stage import leaf_modules

DEFAULT_STAGES = 4
EVALUATED_AT_ONCE = 2048


@dataclass(frozen=True)
class Problem:
    """A network on its device, cut into stages, and the data on the same device."""

    data: Dataset
    model: nn.Sequential
    pipeline: InProcessPipeline

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Loss on all training samples and accuracy on all test samples, by a plain forward pass."""
        total = torch.zeros((), dtype=torch.float64)
        for inputs, targets in _parts(self.data.train_inputs, self.data.train_targets):
            total += self.pipeline.loss.sample_losses(self.model(inputs), targets).sum().double().cpu()
        right = 0
        for inputs, targets in _parts(self.data.test_inputs, self.data.test_targets):
            right += int((self.model(inputs).argmax(-1) == targets).sum())
        return Evaluation(float(total) / len(self.data.train_inputs), right / self.data.test_targets.numel())


def load_data(config: ExperimentConfig) -> Dataset:
    """The data, on the device the experiment runs on."""
    dtype = getattr(torch, config.dtype)
    data = load_dataset(config.data, data_dir=config.data_dir, train_samples=config.train_samples, dtype=dtype)
    device = choose_device(config.device)
    return Dataset(
        data.name,
        data.train_inputs.to(device),
        data.train_targets.to(device),
        data.test_inputs.to(device),
        data.test_targets.to(device),
        data.classes,
    )


def build_problem(config: ExperimentConfig, data: Dataset) -> Problem:
    """The network of the configuration's seed, the same on every device and in every dtype (up to rounding).

    Raises:
        ValueError: when the network cannot be built for this data or cut into so many stages.
    """
    torch.manual_seed(config.seed)
    model = build_model(
        config.model,
        input_shape=data.input_shape,
        outputs=data.classes,
        layers=config.layers,
        width=config.width,
        activation=config.activation,
        tokens=data.has_tokens,
    )
    model.to(data.train_inputs.device, getattr(torch, config.dtype))
    count = config.stages or min(DEFAULT_STAGES, _trainable_layers(model))
    pipeline = InProcessPipeline(partition(model, count), CrossEntropy(), microbatches=config.microbatches)
    return Problem(data, model, pipeline)


def choose_device(name: str) -> torch.device:
    """The device that a name stands for.

    Raises:
        ValueError: when cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: no CUDA device is available here; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _trainable_layers(model: nn.Sequential) -> int:
    return sum(any(parameter.requires_grad for parameter in leaf.parameters()) for leaf in leaf_modules(model))


def _parts(inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(EVALUATED_AT_ONCE), targets.split(EVALUATED_AT_ONCE), strict=True))
