"""Which samples a round sees: a function of the seed and the round's number alone, so that resuming is exact."""

import torch
from torch import Tensor

from surmin.experiments.runs.position import SOLE_POSITION, Position
from surmin.seeds import draw_seed


class Batches:
    """Cuts the training set into batches, reshuffled every epoch, dropping the remainder.

    Args:
        inputs: all training inputs.
        targets: all training targets.
        batch_size: samples per round; 0 for all of them, in the order given.
        seed: of the permutations.
        position: of the worker, which gets its replica's share of every batch.

    Raises:
        ValueError: if there are fewer samples than a batch has, or replicas cannot have equal shares.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, batch_size: int, seed: int, position: Position = SOLE_POSITION
    ) -> None:
        if batch_size > len(inputs):
            raise ValueError(f"batch_size {batch_size} is more than the {len(inputs)} training samples")
        self._share = position.share(batch_size or len(inputs))
        self._inputs, self._targets = inputs, targets
        self._whole = inputs[self._share], targets[self._share]
        self._size = batch_size
        self._seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def size(self) -> int:
        """Samples per round, of this replica's share."""
        return self._share.stop - self._share.start

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of round `number`, counted from 0. The full batch is always the same two tensors."""
        if not self._size:
            return self._whole
        epoch, position = divmod(number, len(self._inputs) // self._size)
        if epoch != self._epoch:
            self._order, self._epoch = self._permutation(epoch), epoch
        rows = self._order[position * self._size : (position + 1) * self._size][self._share].to(self._inputs.device)
        return self._inputs[rows], self._targets[rows]

    def _permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(draw_seed(self._seed, epoch))
        return torch.randperm(len(self._inputs), generator=generator)
