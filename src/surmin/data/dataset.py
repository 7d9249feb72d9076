"""What every loader returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Training and test samples of a classification problem, in memory: the CPU's, as `load_dataset` returns them.

    Attributes:
        name: digits, mnist or text, else that of the file or folder.
        train_inputs: (samples, ...), floating point, or int64 token ids for text.
        train_targets: int64 class numbers below `classes`: (samples,), or (samples, context) for text.
        test_inputs: as `train_inputs`.
        test_targets: as `train_targets`.
        classes: number of classes; for text, size of the vocabulary of inputs and targets.
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (channels, height, width) for images, (context,) for text."""
        return tuple(self.train_inputs.shape[1:])

    @property
    def has_tokens(self) -> bool:
        """Whether the inputs are token ids, to be embedded, rather than numbers."""
        return not self.train_inputs.is_floating_point()
