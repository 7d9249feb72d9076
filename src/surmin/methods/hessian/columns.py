"""Which tangents travel where when products with the Hessian go through the stages."""

from typing import Protocol

import torch
from torch import Tensor

from surmin.methods.hessian.layer import LayerTangents


class Columns(Protocol):
    """Which columns travel where. `low` are those below a layer, None if there are none."""

    def enter(self, layer: LayerTangents, low: Tensor | None, directions: Tensor) -> Tensor:
        """The tangents above a trainable layer."""

    def leave(
        self, layer: LayerTangents, changes: Tensor, low: Tensor | None, directions: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """The changes of the gradient below a trainable layer, and of its parameters' gradient."""


class JointColumns:
    """A column perturbs all layers at once: products with the whole Hessian."""

    def enter(self, layer: LayerTangents, low: Tensor | None, directions: Tensor) -> Tensor:
        """As many columns as below."""
        return layer.push(low, directions)

    def leave(
        self, layer: LayerTangents, changes: Tensor, low: Tensor | None, directions: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """All go on, but not below the first trainable layer."""
        below = None if low is None else layer.pull_inputs(changes, low, directions)
        return below, layer.pull_parameters(changes, low, directions)


class BlockColumns:
    """A column perturbs one layer: products with the block diagonal of the Hessian, all blocks' in one wave.

    A layer's own columns begin there, above those of the layers below, and end there on the way down.
    """

    def enter(self, layer: LayerTangents, low: Tensor | None, directions: Tensor) -> Tensor:
        """Those from below and the layer's own."""
        own = layer.push(None, directions)
        return own if low is None else torch.cat([layer.push(low, None), own])

    def leave(
        self, layer: LayerTangents, changes: Tensor, low: Tensor | None, directions: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """The others go on."""
        count = 0 if low is None else len(low)
        below = None if low is None else layer.pull_inputs(changes[:count], low, None)
        return below, layer.pull_parameters(changes[count:], None, directions)
