"""Using the forward wave that accepted a step as the next iteration's first wave."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from surmin.pipeline.wave import Wave
from surmin.stages.stage import Stage

Noted = tuple[tuple[Tensor, int, int], ...]
"""Tensors, held so that no other can take their place in memory, with the place and version they had."""


@dataclass(frozen=True)
class AcceptedWave:
    """A forward wave at the current parameters, with what tells whether it still is one."""

    wave: Wave
    batch: Noted
    held: Noted

    @classmethod
    def of(cls, wave: Wave, inputs: Tensor, targets: Tensor, stages: Sequence[Stage]) -> "AcceptedWave":
        """Note the batch and the versions of everything the wave depends on."""
        return cls(wave, note((inputs, targets)), note(_held(stages)))

    def fits(self, inputs: Tensor, targets: Tensor, stages: Sequence[Stage]) -> bool:
        """Whether batch, parameters and buffers are the same tensors, unchanged since."""
        return same_tensors(self.batch, (inputs, targets)) and same_tensors(self.held, _held(stages))

    def __deepcopy__(self, _memo: object) -> None:
        """Copies of a pipeline have parameters of their own, and run a wave there."""


def note(tensors: Iterable[Tensor]) -> Noted:
    """What `same_tensors` compares with."""
    return tuple((tensor, tensor.data_ptr(), tensor._version) for tensor in tensors)


def same_tensors(noted: Noted, tensors: Sequence[Tensor]) -> bool:
    """Whether these are the tensors that were noted, unchanged since."""
    return len(noted) == len(tensors) and all(
        old is new and new.data_ptr() == place and new._version == version
        for (old, place, version), new in zip(noted, tensors, strict=True)
    )


def _held(stages: Sequence[Stage]) -> list[Tensor]:
    """All parameters and buffers, frozen ones included."""
    modules = [layer.module for stage in stages for layer in stage.layers]
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
