"""Using the forward wave that accepted a step as the next iteration's first wave."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from surmin.pipeline.in_process import Wave
from surmin.stages.stage import Stage


@dataclass(frozen=True)
class AcceptedWave:
    """A forward wave at the current parameters, with what tells whether it still is one."""

    wave: Wave
    batch: tuple[Tensor, Tensor]
    versions: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, wave: Wave, inputs: Tensor, targets: Tensor, stages: Sequence[Stage]) -> "AcceptedWave":
        """Note the batch and the versions of everything the wave depends on."""
        return cls(wave, (inputs, targets), _versions(inputs, targets, stages))

    def fits(self, inputs: Tensor, targets: Tensor, stages: Sequence[Stage]) -> bool:
        """Whether batch and parameters are the same tensors, unchanged since."""
        same = inputs is self.batch[0] and targets is self.batch[1]
        return same and self.versions == _versions(inputs, targets, stages)


def _versions(inputs: Tensor, targets: Tensor, stages: Sequence[Stage]) -> tuple[tuple[int, int], ...]:
    """Place and version of the batch and of all parameters and buffers, frozen ones included."""
    modules = [layer.module for stage in stages for layer in stage.layers]
    held = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return tuple((tensor.data_ptr(), tensor._version) for tensor in (inputs, targets, *held))
