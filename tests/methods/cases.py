from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from surmin.losses import CrossEntropy
from surmin.methods.registry import build_method
from surmin.models import mlp
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition

BY_STAGES = {"ddg", "features-replay", "fdg", "dgl", "interlocking", "dni"}
"""Methods whose steps depend on where the network is cut."""
SAMPLES, FEATURES, WIDTH, CLASSES, LAYERS = 24, 5, 7, 3, 3


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return mlp((FEATURES,), CLASSES, LAYERS, WIDTH, "tanh").double()


def make_pipeline(model: nn.Sequential, stages: int = 2, microbatches: int = 1) -> InProcessPipeline:
    return InProcessPipeline(partition(model, stages), CrossEntropy(), microbatches=microbatches)


def make_batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(SAMPLES, FEATURES, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(CLASSES, (SAMPLES,), generator=generator)


def check_trains(names: Sequence[str], make: Callable[[], InProcessPipeline], batch: tuple[Tensor, Tensor]) -> None:
    """Every method, with its own options, lowers the loss of a network of its own."""
    for name in names:
        method = build_method(name, make())
        losses = [method.step(*batch).loss for _ in range(5)]
        assert losses[-1] < losses[0], name


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)
