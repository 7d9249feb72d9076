"""Auxiliary heads: small networks that predict the targets from a stage's output, and the local losses they define.

Legend: h a stage's output, A the head, ℓ the network's own loss, n the samples of the whole batch;
the local loss is L = (1/n) Σ_j ℓ(A(h_j), y_j).
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from surmin.methods.auxiliary_networks.auxiliary import Auxiliary
from surmin.pipeline.worker_pipeline import WorkerPipeline

POOLED_SIDE = 2
Layout = Literal["positions", "image", "whole"]


def layout_of(state: Sequence[int], outputs: Sequence[int]) -> Layout:
    """How a network beside a stage reads its output.

    Args:
        state: shape of one sample of the stage's output.
        outputs: shape of one sample of the network's output, classes last.

    Returns:
        "positions" if both have the same positions (a plain vector has one), each of which is read alone; "image" for
        (channels, height, width) before plain vectors; "whole" for anything else before plain vectors.

    Raises:
        ValueError: if the network's output has positions that the stage's does not.
    """
    if state and tuple(state[:-1]) == tuple(outputs[:-1]):
        return "positions"
    if len(outputs) == 1:
        return "image" if len(state) == 3 else "whole"
    raise ValueError(
        f"an auxiliary network needs a stage whose outputs have the network's positions {list(outputs[:-1])}, or a "
        f"network with plain vector outputs: samples of shape {list(state)} do not fit outputs of shape {list(outputs)}"
    )


def build_head(state: Sequence[int], outputs: Sequence[int]) -> nn.Module:
    """A head from samples of shape `state` to outputs: images pooled to 2 x 2, one hidden ReLU layer as wide as h."""
    layout = layout_of(state, outputs)
    layers: list[tuple[str, nn.Module]] = []
    features = state[-1] if layout == "positions" else prod(state)
    if layout == "image":
        channels, *sides = state
        pooled = [min(side, POOLED_SIDE) for side in sides]
        layers.append(("pool", nn.AdaptiveAvgPool2d((pooled[0], pooled[1]))))
        features = channels * prod(pooled)
    if layout != "positions":
        layers.append(("flatten", nn.Flatten()))
    layers += [
        ("hidden", nn.Linear(features, features)),
        ("activation", nn.ReLU()),
        ("output", nn.Linear(features, outputs[-1])),
    ]
    return nn.Sequential(OrderedDict(layers))


def local_gradient(
    pipeline: WorkerPipeline, head: Auxiliary, position: int, output: Tensor, targets: Tensor, samples: int
) -> Tensor:
    """A micro-batch's share of ∂L/∂h; its share of the head's own gradient is added to the head.

    Args:
        pipeline: has the loss ℓ and counts the work.
        head: A.
        position: of its stage.
        output: h, of the micro-batch.
        targets: y, of the micro-batch.
        samples: n.
    """
    with pipeline.work.phase(("head", output.shape, targets.shape, position)):
        h = output.detach().requires_grad_()
        predicted = head.module(h)
        top = pipeline.output_gradient(predicted, targets, samples)
        below, *own = torch.autograd.grad(predicted, [h, *head.parameters], top)
    head.add(own)
    return below
