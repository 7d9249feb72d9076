"""A stage: the consecutive layers one device holds, run forwards and backwards with all the curvature needs on tape."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from surmin.stages.layer import Layer, flatten, is_as_written

LayerParameters = Sequence[Mapping[str, Tensor]]
"""For every layer of a stage the values of its trainable parameters, by name."""


@dataclass
class Tape:
    """What one forward pass of one micro-batch leaves behind in a stage.

    Attributes:
        inputs: every layer's input, and last the stage's output; still attached to the graph until `backward`.
        parameters: what the pass ran with.
        cotangents: after `backward`, the gradient of the mean loss with respect to `inputs[i]`, for the i asked for.
    """

    inputs: Sequence[Tensor]
    parameters: LayerParameters
    cotangents: dict[int, Tensor] = field(default_factory=dict)

    @property
    def output(self) -> Tensor:
        """The stage's output."""
        return self.inputs[-1]


class Stage:
    """Layers in order.

    Args:
        layers: what the stage consists of, from its input to its output.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)

    @classmethod
    def of(cls, module: nn.Module, first_index: int = 0) -> "Stage":
        """The stage of a module: nested `nn.Sequential`s are flattened, any other module is one layer.

        Args:
            module: the stage as a module.
            first_index: the number of layers before it, so that layers are named through the whole network.
        """
        return cls([Layer.of(leaf, str(index)) for index, leaf in enumerate(leaf_modules(module), start=first_index)])

    @property
    def parameters(self) -> LayerParameters:
        """The trainable parameters."""
        return [layer.parameters for layer in self.layers]

    def forward(self, inputs: Tensor, parameters: LayerParameters | None = None) -> Tape:
        """Run the layers on one micro-batch and keep every layer's input.

        Args:
            inputs: what the stage below sent, or the network's input.
            parameters: other values to run with.
        """
        state = inputs.detach().requires_grad_(torch.is_grad_enabled() and inputs.is_floating_point())
        states = [state]
        for index, layer in enumerate(self.layers):
            state = layer.forward(state, parameters[index] if parameters else None)
            states.append(state)
        return Tape(states, parameters or self.parameters)

    def backward(self, tape: Tape, cotangent: Tensor, wanted: Sequence[int] = ()) -> list[Tensor]:
        """The gradient of each layer's parameters (flat), given that of the output.

        Args:
            tape: of a forward pass with gradients enabled; it can be differentiated once.
            cotangent: gradient of the mean loss in the stage's output.
            wanted: the layers in whose inputs the gradient is wanted too; it is left in `tape.cotangents`.
        """
        tape.cotangents[len(self.layers)] = cotangent
        targets = [value for own in tape.parameters for value in own.values()]
        count = len(targets)
        targets += [tape.inputs[index] for index in wanted]
        if tape.output.requires_grad and targets:
            gradients = torch.autograd.grad(tape.output, targets, cotangent, allow_unused=True, materialize_grads=True)
        else:
            gradients = tuple(torch.zeros_like(target) for target in targets)
        tape.cotangents.update(zip(wanted, gradients[count:], strict=True))
        remaining = iter(gradients)
        by_layer = [[next(remaining) for _ in own] for own in tape.parameters]
        return [flatten(pieces) if pieces else cotangent.new_zeros(0) for pieces in by_layer]


class SelectedInputs(Sequence[Tensor]):
    """Every layer's input in some rows of a batch, from the tapes of its parts; gathered when asked for.

    Args:
        tapes: of equal parts of the batch.
        rows: ascending, counted through the batch.
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


def stages_of(modules: Iterable[nn.Module], first_index: int = 0) -> list[Stage]:
    """One stage a module, with layers numbered through all of them from `first_index`."""
    stages: list[Stage] = []
    for module in modules:
        stages.append(Stage.of(module, first_index + sum(len(stage.layers) for stage in stages)))
    return stages


def selected(tapes: Sequence[Tape], rows: Tensor) -> Tape:
    """The tape of some ascending rows of a batch, without cotangents."""
    return Tape(SelectedInputs(tapes, rows), tapes[0].parameters)


def layer_inputs(tapes: Sequence[Tape], index: int) -> Tensor:
    """The input of layer `index` in the whole batch, from the tapes of its parts."""
    return joined([tape.inputs[index].detach() for tape in tapes])


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Put together; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def leaf_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that run one after the other: `nn.Sequential`s opened if nothing is hooked on, all others whole."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and is_as_written(module):
        for child in module:
            yield from leaf_modules(child)
    else:
        yield module


def group_by_trainable(layers: Sequence[Layer]) -> list[list[int]]:
    """Indices of consecutive layers in groups of one trainable layer each, with the parameter-free layers after it."""
    groups: list[list[int]] = []
    for index, layer in enumerate(layers):
        opens = layer.size > 0 and any(layers[i].size > 0 for i in (groups[-1] if groups else []))
        if not groups or opens:
            groups.append([])
        groups[-1].append(index)
    return groups
