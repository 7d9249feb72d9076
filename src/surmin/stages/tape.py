"""What a forward pass of one micro-batch leaves behind in a stage; and joining the rows of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

LayerParameters = Sequence[Mapping[str, Tensor]]
"""For every layer of a stage, the values of its trainable parameters, by name."""


@dataclass
class Tape:
    """What one forward pass of one micro-batch leaves behind in a stage.

    Attributes:
        inputs: every layer's input, and last the stage's output; attached to the graph until `backward`.
        parameters: those the pass ran with.
        cotangents: after `backward`, the gradient of the mean loss in `inputs[i]`, for the requested i.
        is_released: whether only the output is left of `inputs`.
    """

    inputs: Sequence[Tensor]
    parameters: LayerParameters
    cotangents: dict[int, Tensor] = field(default_factory=dict)
    is_released: bool = False

    @property
    def output(self) -> Tensor:
        """The stage's output."""
        return self.inputs[-1]

    def release(self) -> None:
        """Let go of all but the output, once nothing more will be asked of the pass."""
        self.inputs, self.cotangents, self.is_released = (self.output.detach(),), {}, True


class SelectedInputs(Sequence[Tensor]):
    """Every layer's input in some rows of a batch, from the tapes of its parts; gathered on demand.

    Args:
        tapes: of equal parts of the batch.
        rows: ascending, numbered through the batch.
    """

    def __init__(self, tapes: Sequence[Tape], rows: Tensor) -> None:
        self._parts = [(tapes[0].inputs, rows)]
        self._count = len(tapes[0].inputs)
        if len(tapes) > 1:
            length = len(tapes[0].inputs[0])
            starts = range(0, length * len(tapes) + 1, length)
            cuts = torch.searchsorted(rows, torch.tensor(starts, device=rows.device)).tolist()
            spans = zip(tapes, starts, cuts, cuts[1:], strict=False)
            self._parts = [(tape.inputs, rows[cut:end] - start) for tape, start, cut, end in spans if end > cut]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        found = [inputs[index].detach().index_select(0, rows) for inputs, rows in self._parts]
        return found[0] if len(found) == 1 else torch.cat(found)


def selected(tapes: Sequence[Tape], rows: Tensor) -> Tape:
    """The tape of some ascending rows of a batch, without cotangents."""
    return Tape(SelectedInputs(tapes, rows), tapes[0].parameters)


def layer_inputs(tapes: Sequence[Tape], index: int) -> Tensor:
    """The input of layer `index` in the whole batch, from the tapes of its parts."""
    return joined([tape.inputs[index].detach() for tape in tapes])


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenated; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Stacked on a new first dimension; a single one is not copied."""
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(list(parts))
