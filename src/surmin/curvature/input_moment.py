"""The mean outer product C of a layer's inputs, 1 appended; the network input's is kept while that stays the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from surmin.replicas import ONE_REPLICA, Replicas
from surmin.stages.probe import all_equal, probe


class InputMomentCache:
    """The moment of the first trainable layer's input, kept while that stays the same, as with a full batch.

    It is the same if the tensors are at the same place, with the same versions and evenly spaced numbers.

    The tensors are held, so that no other can take their place in memory and be mistaken for them.

    Args:
        replicas: which the moment is averaged over.
    """

    def __init__(self, replicas: Replicas = ONE_REPLICA) -> None:
        self._replicas = replicas
        self._inputs: list[Tensor] = []
        self._versions: list[int] = []
        self._probes: list[Tensor] = []
        self._moment: Tensor | None = None

    def of(self, inputs: Sequence[Tensor]) -> "FirstInput":
        """An input, one tensor per micro-batch; checking whether its moment is already known waits for the device."""
        return FirstInput(self, inputs, self._holds(inputs))

    def keep(self, inputs: Sequence[Tensor], moment: Tensor) -> None:
        """Keep the moment of this input until there is another."""
        self._inputs, self._versions = list(inputs), [part._version for part in inputs]
        self._probes = [probe(part) for part in inputs]
        self._moment = moment

    def averaged(self) -> Tensor:
        """What is kept, averaged over all replicas; always, as another replica may not have had its own yet."""
        assert self._moment is not None
        return self._replicas.mean(self._moment)

    def _holds(self, inputs: Sequence[Tensor]) -> bool:
        return (
            bool(self._inputs)
            and len(inputs) == len(self._inputs)
            and all(
                _is_same(new, old) and new._version == version
                for new, old, version in zip(inputs, self._inputs, self._versions, strict=True)
            )
            and all_equal([probe(part) for part in inputs], self._probes)
        )


@dataclass(frozen=True)
class FirstInput:
    """The input of the network's first trainable layer.

    Attributes:
        cache: where its moment is kept.
        parts: one tensor per micro-batch.
        is_known: whether its moment is already known and will cost nothing.
    """

    cache: InputMomentCache
    parts: Sequence[Tensor]
    is_known: bool

    def moment(self, samples: int, rows_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean outer product, with a 1 appended, of evenly spaced samples: at least `samples` of them.

        Args:
            samples: how many are enough.
            rows_of: what the layer's weight multiplies for given inputs, as rows.
        """
        if not self.is_known:
            stride = max(1, sum(len(part) for part in self.parts) // samples)
            whole = [part.detach() for part in self.parts]
            starts = accumulate((len(part) for part in whole[:-1]), initial=0)
            spaced = [part[-start % stride :: stride] for part, start in zip(whole, starts, strict=True)]
            self.cache.keep(whole, input_moment([rows_of(part) for part in spaced]))
        return self.cache.averaged()


def _is_same(new: Tensor, old: Tensor) -> bool:
    """The same places in memory."""
    return (
        new.data_ptr() == old.data_ptr()
        and new.dtype == old.dtype
        and new.shape == old.shape
        and new.stride() == old.stride()
    )


def input_moment(parts: Sequence[Tensor]) -> Tensor:
    """[Σ z zᵀ, Σ z; Σ zᵀ, N] / N over all rows."""
    count = sum(len(rows) for rows in parts)
    size = parts[0].shape[1]
    moment = parts[0].new_ones(size + 1, size + 1)
    moment[:-1, :-1] = gram(parts) / count
    moment[:-1, -1] = moment[-1, :-1] = torch.stack([rows.sum(0) for rows in parts]).sum(0) / count
    return moment


def gram(parts: Sequence[Tensor]) -> Tensor:
    """Σ rowsᵀ rows."""
    total = parts[0].t() @ parts[0]
    for rows in parts[1:]:
        total += rows.t() @ rows
    return total
