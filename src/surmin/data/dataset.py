"""What every loader returns."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Training and test samples, in memory; `load_dataset` puts them into the CPU's.

    Attributes:
        train_inputs: (samples, ...), floating point, or int64 token ids for text.
        train_targets: int64 class numbers below `classes`, (samples,), or (samples, context) for text; or numbers,
            floating point, (samples, outputs).
        test_inputs: as `train_inputs`.
        test_targets: as `train_targets`.
        classes: number of classes; for text, size of the vocabulary of inputs and targets; 0 where targets are numbers
            that stand for none.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int

    def to(self, device: torch.device) -> "Dataset":
        """The same data on a device."""
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
    def outputs(self) -> int:
        """How many a network for this data has: one a class, or one a number of a sample's target."""
        return self.classes or self.train_targets.shape[-1]

    @property
    def has_tokens(self) -> bool:
        """Whether the inputs are token ids, to be embedded, rather than numbers."""
        return not self.train_inputs.is_floating_point()
