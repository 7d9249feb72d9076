"""Seeing that a sample's output depends on that sample alone, as every local loss takes for granted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from surmin.stages.stage import Stage
from surmin.stages.tape import Tape

TOLERANCE = 1e-3
"""Of the largest output, by which rounding may change one."""
SHARE = 0.01
"""Of outputs that may change by more: rounding decides some comparisons otherwise, and some modules make many."""


@torch.no_grad()
def check_independence(stages: Sequence[Stage], tapes: Sequence[Tape]) -> None:
    """Run every layer again, on the first half of the samples twice, and look whether their outputs are what they were.

    Args:
        stages: all that are held here.
        tapes: of one forward pass at the parameters as they are, one a stage.

    Raises:
        ValueError: for a layer whose outputs change, because it draws, or ties samples together.
    """
    for stage, tape in zip(stages, tapes, strict=True):
        for layer, entering, leaving in zip(stage.layers, tape.inputs, tape.inputs[1:], strict=False):
            half = entering.detach()[: (len(entering) + 1) // 2]
            again = layer.forward(torch.cat([half, half])[: len(entering)])
            if _have_changed(again[: len(half)], leaving.detach()[: len(half)]):
                raise ValueError(
                    f"layer {layer.name} ({type(layer.module).__name__}) gives samples other outputs when others come "
                    "with them, or at every pass: local losses need one sample's output to depend on that sample "
                    "alone; if it is in training mode, call .eval() on it"
                )


def _have_changed(now: Tensor, before: Tensor) -> Tensor:
    """Whether more than rounding lies between; 0-dimensional."""
    now, before = now.double(), before.double()
    far = (now - before).abs() > TOLERANCE * before.abs().amax()
    return far.double().mean() > SHARE
