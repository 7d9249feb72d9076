"""Synthesizers: small networks that predict, from a stage's output and the targets, the loss's gradient in that output.

Legend: h a stage's output, y the targets (one-hot for labels), M the synthesizer, g_j sample j's gradient in h_j.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surmin.methods.auxiliary_networks.heads import layout_of

HIDDEN_FACTOR = 2
"""Width of the hidden layer, as a multiple of h's."""


class Synthesizer(nn.Module):
    """M(h, y): one hidden ReLU layer, of 3 x 3 convolutions for images; its last layer starts at zero.

    Args:
        state: shape of one sample of h.
        outputs: shape of one sample of the network's output, classes last.

    Raises:
        ValueError: if the stage cannot have a network beside it.
    """

    def __init__(self, state: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        self._layout = layout_of(state, outputs)
        self._outputs = list(outputs)
        if self._layout == "image":
            channels = state[0]
            hidden: nn.Module = nn.Conv2d(channels + outputs[-1], HIDDEN_FACTOR * channels, 3, padding=1)
            output: nn.Conv2d | nn.Linear = nn.Conv2d(HIDDEN_FACTOR * channels, channels, 3, padding=1)
        else:
            features = state[-1] if self._layout == "positions" else prod(state)
            hidden = nn.Linear(features + outputs[-1], HIDDEN_FACTOR * features)
            output = nn.Linear(HIDDEN_FACTOR * features, features)
        nn.init.zeros_(output.weight)
        if output.bias is not None:
            nn.init.zeros_(output.bias)
        self.network = nn.Sequential(OrderedDict(hidden=hidden, activation=nn.ReLU(), output=output))

    def forward(self, state: Tensor, targets: Tensor) -> Tensor:
        """Predicted gradients of every sample's own loss, shaped like the states.

        Args:
            state: h, (n, *state).
            targets: y, of n samples.
        """
        y = _one_hot(targets, self._outputs[-1]) if _are_labels(targets, self._outputs) else targets
        y = y.to(state.dtype)
        if self._layout == "image":
            y = y[:, :, None, None].expand(*y.shape, *state.shape[2:])
            joined = torch.cat([state, y], 1)
        elif self._layout == "positions":
            joined = torch.cat([state, y], -1)
        else:
            joined = torch.cat([state.flatten(1), y], 1)
        predicted: Tensor = self.network(joined)
        return predicted.view_as(state)


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """Zeros for a label that is of no class, which the loss ignores."""
    known = (labels >= 0) & (labels < classes)
    return F.one_hot(labels.long().where(known, 0), classes) * known.unsqueeze(-1)


def check_targets(targets: Tensor, outputs: Sequence[int]) -> None:
    """Raise ValueError if targets are neither labels nor of the outputs' shape.

    Args:
        targets: of a batch.
        outputs: shape of one sample of the network's output.
    """
    if not _are_labels(targets, outputs) and targets.shape[1:] != torch.Size(outputs):
        raise ValueError(
            "a synthesizer needs targets that are labels or have the outputs' shape: samples of shape "
            f"{list(targets.shape[1:])} and {targets.dtype} do not fit outputs of shape {list(outputs)}"
        )


def _are_labels(targets: Tensor, outputs: Sequence[int]) -> bool:
    return not targets.is_floating_point() and targets.shape[1:] == torch.Size(outputs[:-1])
