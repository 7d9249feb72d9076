"""Mean losses and their smoothness, written out with torch's functions alone."""

import torch.nn.functional as F
from torch import Tensor

from surmin.losses import ConvexLoss, CrossEntropy, LogisticLoss, SquaredError


def plain_mean(loss: ConvexLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    rows, positions = outputs.flatten(0, -2), outputs[0].numel() // outputs.shape[-1]
    if isinstance(loss, CrossEntropy):
        return F.cross_entropy(rows, targets.flatten())
    if isinstance(loss, SquaredError):
        return F.mse_loss(outputs, targets, reduction="sum") / (2 * len(outputs) * positions)
    assert isinstance(loss, LogisticLoss)
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="sum") / (len(outputs) * positions)


def plain_smoothness(loss: ConvexLoss, outputs: Tensor) -> float:
    constant = {CrossEntropy: 0.5, SquaredError: 1.0, LogisticLoss: 0.25}[type(loss)]
    return constant * outputs.shape[-1] / outputs[0].numel()
