"""Reusing the forward wave that accepted a step as the next iteration's first wave."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from surmin.digest import strided_parts
from surmin.pipeline.wave import Wave
from surmin.stages.probe import all_equal, probe
from surmin.stages.stage import Stage

Places = tuple[int, ...]
Noted = tuple[tuple[Tensor, Places, int], ...]
"""Tensors, held so that no other can take their place in memory, with their place and version at the time."""


@dataclass(frozen=True)
class NotedBatch:
    """A batch, noted so that it is recognised if it comes again unchanged.

    Versions show changes, except what collectives of `torch.distributed` receive into a tensor, so evenly spaced
    numbers are compared as well.
    """

    tensors: Noted = ()
    probes: tuple[Tensor, ...] = ()

    def __deepcopy__(self, _memo: object) -> "NotedBatch":
        """Copies of an object that noted it would not meet it again: their tensors differ."""
        return NotedBatch()

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> "NotedBatch":
        """Note it as it is now."""
        return cls(_note((inputs, targets)), tuple(probe(tensor) for tensor in (inputs, targets)))

    def is_same(self, inputs: Tensor, targets: Tensor) -> bool:
        """Whether these are the noted tensors, unchanged since."""
        return _same_tensors(self.tensors, (inputs, targets)) and all_equal(
            [probe(tensor) for tensor in (inputs, targets)], self.probes
        )


@dataclass(frozen=True)
class AcceptedWave:
    """A forward wave at the current parameters, noted so that it can be checked that it still is one.

    Attributes:
        wave: the wave.
        held: all that it depends on except the batch.
        values: of the trainable parameters, by stage and layer.
        probes: of everything else that is held.
        modes: of all modules, training or not.
    """

    wave: Wave
    held: Noted
    values: Sequence[Tensor]
    probes: Sequence[Tensor]
    modes: Sequence[bool]

    @classmethod
    def of(cls, wave: Wave, stages: Sequence[Stage]) -> "AcceptedWave":
        """Note what the wave ran with: from its tapes, or a copy if its owner has released them."""
        tapes = [parts[0].parameters for parts in wave.tapes]
        values = [value.detach() for own in tapes for layer in own for value in layer.values() if value.numel()]
        own = values if tapes else [value.clone() for value in _parameters(stages)]
        return cls(wave, _note(_held(stages)), own, _probes(stages), _modes(stages))

    def fits(self, stages: Sequence[Stage]) -> bool:
        """Whether parameters and buffers are the same tensors, unchanged since.

        Not every change shows in versions (a `fused=True` optimizer's does not): trainable parameters are compared with
        those the wave ran with, and so are evenly spaced numbers of everything else.
        """
        return (
            self.modes == _modes(stages)
            and _same_tensors(self.held, _held(stages))
            and all_equal(_parameters(stages), self.values)
            and all_equal(_probes(stages), self.probes)
        )

    def __deepcopy__(self, _memo: object) -> None:
        """None: a copied pipeline has its own parameters and runs a wave there."""


def _modes(stages: Sequence[Stage]) -> list[bool]:
    return [module.training for stage in stages for layer in stage.layers for module in layer.module.modules()]


def _note(tensors: Sequence[Tensor]) -> Noted:
    return tuple((tensor, _places(tensor), _version(tensor)) for tensor in tensors)


def _places(tensor: Tensor) -> Places:
    return tuple(part.data_ptr() for part in strided_parts(tensor))


def _version(tensor: Tensor) -> int:
    """Tensors made in torch.inference_mode() have none."""
    return 0 if tensor.is_inference() else tensor._version


def _same_tensors(noted: Noted, tensors: Sequence[Tensor]) -> bool:
    """Whether these are the noted tensors, at the same place and version."""
    return len(noted) == len(tensors) and all(
        old is new and _places(new) == places and _version(new) == version
        for (old, places, version), new in zip(noted, tensors, strict=True)
    )


def _parameters(stages: Sequence[Stage]) -> list[Tensor]:
    """The trainable ones that have numbers, by stage and layer."""
    held = (value for stage in stages for layer in stage.layers for value in layer.parameters.values())
    return [value.detach() for value in held if value.numel()]


def _held(stages: Sequence[Stage]) -> list[Tensor]:
    """All parameters and buffers, frozen ones included."""
    modules = [layer.module for stage in stages for layer in stage.layers]
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def _probes(stages: Sequence[Stage]) -> list[Tensor]:
    """Probes of frozen parameters and buffers, or all the numbers of those that have no version."""
    trained = {id(value) for stage in stages for layer in stage.layers for value in layer.parameters.values()}
    return [
        part.clone() if tensor.is_inference() else probe(part)
        for tensor in _held(stages)
        if id(tensor) not in trained
        for part in strided_parts(tensor)
    ]
