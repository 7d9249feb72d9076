"""What every loader returns."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Training and test samples of a classification problem, in memory; `load_dataset` puts them into the processor's.

    Attributes:
        train_inputs: (samples, ...), floating point, or int64 token ids for text.
        train_targets: int64 class numbers below `classes`: (samples,), or (samples, context) for text.
        test_inputs: as `train_inputs`.
        test_targets: as `train_targets`.
        classes: number of classes; for text, size of the vocabulary of inputs and targets.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int

    def to(self, device: torch.device) -> "Dataset":
        """The same data there."""
        return Dataset(
            self.train_inputs.to(device),
            self.train_targets.to(device),
            self.test_inputs.to(device),
            self.test_targets.to(device),
            self.classes,
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (channels, height, width) for images, (context,) for text."""
        return tuple(self.train_inputs.shape[1:])

    @property
    def has_tokens(self) -> bool:
        """Whether the inputs are token ids, to be embedded, rather than numbers."""
        return not self.train_inputs.is_floating_point()
