"""Half the squared error."""

from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.losses.columns import identity_factor, random_sign_factor
from surmin.losses.outputs import check_outputs, check_real_targets, positions


@dataclass(frozen=True)
class SquaredError:
    """½‖z - y‖², summed over the last dimension; targets have the shape of the outputs."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError unless targets are finite numbers of the outputs' shape."""
        check_outputs(outputs)
        check_real_targets(outputs, targets)

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """½‖z - y‖², mean over positions."""
        return 0.5 * (outputs - targets.to(outputs.dtype)).square().sum(-1).view(len(outputs), -1).mean(1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(z - y) / positions."""
        return (outputs - targets.to(outputs.dtype)) / positions(outputs)

    def smoothness(self, outputs: Tensor) -> float:
        """1 / positions."""
        return 1.0 / positions(outputs)

    def trace(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The number of outputs, the same for every sample."""
        return outputs.new_full((len(outputs),), float(outputs.shape[-1]))

    def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The identity, one column per output."""
        return identity_factor(outputs, self.smoothness(outputs))

    def sampled_factor(self, outputs: Tensor, targets: Tensor, rank: int, generator: torch.Generator) -> Tensor:
        """Random signs: E[s sᵀ] = I."""
        return random_sign_factor(outputs, self.smoothness(outputs), rank, generator)
