"""Networks cut into stages, and what stands beside them, computed again by plain autograd."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surmin.losses import ConvexLoss, CrossEntropy, LogisticLoss
from surmin.methods.auxiliary_networks.local_learning import LocalLearning
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from tests.cases import BY_NAME, Case

CUTS: dict[str, list[tuple[str, Sequence[int], int]]] = {
    "one stage": [("tanh", (0, 7), 1)],
    "two stages": [("logistic", (0, 2, 3), 3)],
    "vectors": [("softplus", (0, 2, 4, 5), 1), ("softplus", (0, 2, 4, 5), 2), ("relu", (0, 2, 4, 6, 7), 3)],
    "images": [("convolution", (0, 3, 6, 7), 2)],
    "positions": [("positions", (0, 1, 3, 4), 2), ("attention", (0, 1, 2, 4), 3)],
    "anything": [("embedding", (0, 1, 4, 5), 2)],
    "frozen": [("frozen", (0, 2, 4, 6, 7), 2)],
}
"""Networks of `tests.cases`, the layers at which their stages begin, and micro-batches."""
SETTINGS = [setting for settings in CUTS.values() for setting in settings]


def make_stages(case: Case, cuts: Sequence[int]) -> list[nn.Sequential]:
    layers = list(case.network())
    return [nn.Sequential(*layers[start:stop]) for start, stop in pairwise(cuts)]


def make_method(
    name: str, stages: Sequence[nn.Module], case: Case, microbatches: int = 1, seed: int = 0, **options: Any
) -> LocalLearning:
    method = build_method(name, InProcessPipeline(stages, case.loss, microbatches=microbatches), seed=seed, **options)
    assert isinstance(method, LocalLearning)
    return method


def initial_weights(method: LocalLearning, inputs: Tensor) -> dict[str, dict[str, Tensor]]:
    """Of the networks beside the stages, by the name of the stage's first layer, as leaves that can be trained."""
    outputs = method.pipeline.predict(inputs)
    assert outputs is not None
    method.auxiliary.prepare(inputs, outputs.shape[1:])
    stages = method.state_dict()["auxiliary"]["stages"]
    return {
        stage: {name: value.clone().requires_grad_() for name, value in own["weights"].items()}
        for stage, own in stages.items()
    }


def final_difference(method: LocalLearning, weights: Mapping[str, Mapping[str, Tensor]]) -> float:
    found = method.state_dict()["auxiliary"]["stages"]
    assert found.keys() == weights.keys()
    differences = [
        float((found[stage]["weights"][name] - value.detach()).abs().max())
        for stage, own in weights.items()
        for name, value in own.items()
    ]
    return max(differences, default=0.0)


def plain_loss(loss: ConvexLoss) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(loss, CrossEntropy):
        return lambda outputs, targets: F.cross_entropy(outputs.flatten(0, -2), targets.flatten())
    if isinstance(loss, LogisticLoss):
        return lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").sum(-1).mean()
    return lambda outputs, targets: 0.5 * ((outputs - targets) ** 2).sum(-1).mean()


def plain_head(weights: Mapping[str, Tensor], state: Tensor, outputs: Tensor) -> Tensor:
    """A head for outputs of a network like these."""
    if state.dim() == 4 and outputs.dim() == 2:
        height, width = state.shape[2:]
        assert height % 2 == width % 2 == 0
        state = state.unflatten(2, (2, -1)).unflatten(4, (2, -1)).mean((3, 5))
    if outputs.dim() == 2:
        state = state.flatten(1)
    hidden = (state @ weights["hidden.weight"].T + weights["hidden.bias"]).relu()
    return hidden @ weights["output.weight"].T + weights["output.bias"]


def plain_optimizer(name: str, values: Sequence[Tensor], lr: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(values, lr=lr, momentum=0.9)
    return torch.optim.Adam(values, lr=lr)


def detached(state: Tensor) -> Tensor:
    return state.detach().requires_grad_(state.is_floating_point())


def first_layers(cuts: Sequence[int]) -> list[str]:
    """The names of the stages' first layers."""
    return [str(cut) for cut in cuts[:-1]]


def trainable(stages: Sequence[nn.Module]) -> list[nn.Parameter]:
    return [parameter for stage in stages for parameter in stage.parameters() if parameter.requires_grad]


def names(settings: Sequence[tuple[str, Sequence[int], int]]) -> list[str]:
    return [f"{name}-{len(cuts) - 1}x{microbatches}" for name, cuts, microbatches in settings]


def case_of(name: str) -> Case:
    return BY_NAME[name]
