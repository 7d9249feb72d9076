"""What a stage keeps of a batch until its gradient comes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from surmin.stages.stage import Stage
from surmin.stages.tape import LayerParameters, Tape


@dataclass
class Underway:
    """A batch that has gone up through a stage, but whose gradient has not come down to it.

    Attributes:
        shape: of the network's inputs.
        stage: the one it went through.
        weights: those it went up with, if its gradient is to be taken at them.
        inputs: the stage's inputs, by micro-batch.
        tapes: by micro-batch, if they are kept; otherwise the stage runs again on the inputs.
    """

    shape: torch.Size
    stage: Stage
    weights: LayerParameters | None
    inputs: list[Tensor] = field(default_factory=list)
    tapes: list[Tape] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """Tapes hold graphs, which can be neither copied nor pickled: a copy's tapes are made anew."""
        return {**vars(self), "tapes": bool(self.tapes)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Run again if there were tapes."""
        vars(self).update(state, tapes=[])
        if state["tapes"]:
            self.run_again()

    def run_again(self) -> None:
        """Make the tapes anew."""
        with torch.enable_grad():
            self.tapes = [self.stage.forward(state, self.weights) for state in self.inputs]

    def packed(self) -> dict[str, Any]:
        """As whole tensors, which do not depend on the number of micro-batches; weights by global name."""
        packed: dict[str, Any] = {"shape": list(self.shape), "inputs": torch.cat(self.inputs)}
        if self.weights is not None:
            packed["weights"] = {
                f"{layer.name}.{name}": value.detach()
                for layer, values in zip(self.stage.layers, self.weights, strict=True)
                for name, value in values.items()
            }
        return packed

    @classmethod
    def unpack(cls, packed: Mapping[str, Any], stage: Stage, microbatches: int, device: torch.device) -> "Underway":
        """What was packed; tapes are made anew."""
        batch = cls(torch.Size(packed["shape"]), stage, None, list(packed["inputs"].to(device).chunk(microbatches)))
        if "weights" in packed:
            batch.weights = [
                {
                    name: packed["weights"][f"{layer.name}.{name}"].to(device, copy=True).requires_grad_()
                    for name in layer.parameters
                }
                for layer in stage.layers
            ]
            batch.run_again()
        return batch
