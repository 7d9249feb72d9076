"""Using the forward wave that accepted a step as the next iteration's first wave."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.pipeline.wave import Wave
from surmin.stages.stage import Stage

Noted = tuple[tuple[Tensor, int, int], ...]
"""Tensors, held so that no other can take their place in memory, with the place and version they had."""
PROBES = 4096
"""Numbers of each tensor of a batch that are compared."""


@dataclass(frozen=True)
class NotedBatch:
    """A batch, with what tells whether it is there again, unchanged.

    Versions tell that, but not of what collectives of `torch.distributed` receive into a tensor: evenly spaced numbers
    are compared as well.
    """

    tensors: Noted = ()
    probes: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> "NotedBatch":
        """Note it as it is now."""
        return cls(_note((inputs, targets)), tuple(_probe(tensor).clone() for tensor in (inputs, targets)))

    def is_same(self, inputs: Tensor, targets: Tensor) -> bool:
        """Whether these are the tensors that were noted, unchanged since."""
        return _same_tensors(self.tensors, (inputs, targets)) and _equal(
            [_probe(tensor) for tensor in (inputs, targets)], self.probes
        )


@dataclass(frozen=True)
class AcceptedWave:
    """A forward wave at the current parameters, with what tells whether it still is one."""

    wave: Wave
    held: Noted

    @classmethod
    def of(cls, wave: Wave, stages: Sequence[Stage]) -> "AcceptedWave":
        """Note the versions of everything the wave depends on but the batch."""
        return cls(wave, _note(_held(stages)))

    def fits(self, stages: Sequence[Stage]) -> bool:
        """Whether parameters and buffers are the same tensors, unchanged since.

        Parameters are compared with what the wave ran with: not every change of theirs shows in their versions, a
        `fused=True` optimizer's does not.
        """
        return _same_tensors(self.held, _held(stages)) and _equal(*self._parameters(stages))

    def __deepcopy__(self, _memo: object) -> None:
        """Copies of a pipeline have parameters of their own, and run a wave there."""

    def _parameters(self, stages: Sequence[Stage]) -> tuple[list[Tensor], list[Tensor]]:
        """As they are now, and as they were on the wave's tapes; none where those have been let go."""
        pairs = [
            (layer.parameters[name].detach(), value.detach())
            for stage, tapes in zip(stages, self.wave.tapes, strict=False)
            for layer, own in zip(stage.layers, tapes[0].parameters, strict=True)
            for name, value in own.items()
        ]
        return [now for now, _ in pairs], [then for _, then in pairs]


def _note(tensors: Sequence[Tensor]) -> Noted:
    return tuple((tensor, tensor.data_ptr(), tensor._version) for tensor in tensors)


def _same_tensors(noted: Noted, tensors: Sequence[Tensor]) -> bool:
    """Whether these are the tensors that were noted, at the same place and version."""
    return len(noted) == len(tensors) and all(
        old is new and new.data_ptr() == place and new._version == version
        for (old, place, version), new in zip(noted, tensors, strict=True)
    )


def _probe(tensor: Tensor) -> Tensor:
    """Evenly spaced numbers, an odd number apart so that every column of images comes up."""
    return tensor.detach().reshape(-1)[:: tensor.numel() // PROBES | 1]


def _equal(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether all are equal, pair by pair, with one wait for the device."""
    same = [(now == then).all() for now, then in zip(tensors, others, strict=True)]
    return not same or bool(torch.stack(same).all())


def _held(stages: Sequence[Stage]) -> list[Tensor]:
    """All parameters and buffers, frozen ones included."""
    modules = [layer.module for stage in stages for layer in stage.layers]
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
