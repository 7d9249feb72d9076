"""The gradients that a pipeline returns, in the shapes that optimizers take."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from surmin.stages.stage import Stage

Gradients = Mapping[Stage, Sequence[Tensor]]
"""For every stage one flat gradient per layer, as returned by `backward`."""


def assign_gradients(gradients: Gradients) -> None:
    """Put every gradient into its parameter's `.grad`, where torch's optimizers look for it."""
    for stage, own in gradients.items():
        for layer, flat in zip(stage.layers, own, strict=True):
            for name, gradient in layer.unflatten(flat).items():
                layer.parameters[name].grad = gradient


def squared_norm(gradients: Gradients) -> Tensor:
    """Sum of squares over all layers, 0-dimensional."""
    squares = [flat.dot(flat) for own in gradients.values() for flat in own]
    return torch.stack(squares).sum() if squares else torch.zeros(())
