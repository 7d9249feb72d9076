"""Checks that a sample's output depends on that sample alone, as every local loss assumes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from surmin.stages.layer import Layer
from surmin.stages.stage import Stage
from surmin.stages.tape import Tape

ROWS = 1024
"""The most samples that are run."""
TOLERANCE = 1e-3
"""How much rounding may change an output, relative to the largest."""
SHARE = 0.01
"""Share of outputs that may change by more: rounding flips some comparisons, and some modules make many."""


@torch.no_grad()
def check_independence(stages: Sequence[Stage], tapes: Sequence[Tape]) -> None:
    """Run every layer again on its samples amid others, and compare the outputs with what they were.

    The first half of the samples stays in place and also replaces the other half: so it comes after other samples as
    well as before them.

    Args:
        stages: one or more.
        tapes: of one forward pass at the current parameters, one per stage.

    Raises:
        ValueError: if a layer's outputs change, because it draws at random or ties samples together.
    """
    layers = [layer for stage in stages for layer in stage.layers]
    changed = [
        _changes(layer, entering, leaving)
        for stage, tape in zip(stages, tapes, strict=True)
        for layer, entering, leaving in zip(stage.layers, tape.inputs, tape.inputs[1:], strict=False)
    ]
    for layer, has_changed in zip(layers, torch.stack(changed).tolist() if changed else [], strict=True):
        if has_changed:
            raise ValueError(
                f"{layer} gives a sample a different output when other samples change, or on every pass: local losses "
                "need one sample's output to depend on that sample alone; if it is in training mode, call .eval() on it"
            )


def _changes(layer: Layer, entering: Tensor, leaving: Tensor) -> Tensor:
    """Whether the first half's outputs differ by more than rounding from what left the layer; 0-dimensional."""
    entering, before = entering.detach()[:ROWS], leaving.detach()[:ROWS]
    half = (len(entering) + 1) // 2
    others = entering.clone()
    others[half:] = entering[: len(entering) - half]
    now = layer.forward(others)
    if now.shape != before.shape or not now.numel():
        return torch.tensor(now.shape != before.shape, device=now.device)
    before = torch.cat([before[:half], before[: len(before) - half]]).double()
    far = (now.double() - before).abs() > TOLERANCE * before.abs().amax()
    return far.double().mean() > SHARE
