"""A stage: consecutive layers held by one device, run forwards and backwards, keeping all that curvature needs."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from surmin.stages.layer import Layer, flatten, is_as_written
from surmin.stages.tape import LayerParameters, Tape


class Stage:
    """Layers in order.

    Args:
        layers: what the stage consists of, from its input to its output.
        module: that they were found in.
    """

    def __init__(self, layers: Sequence[Layer], module: nn.Module | None = None) -> None:
        self.layers = list(layers)
        self._module = module

    @classmethod
    def of(cls, module: nn.Module, first_index: int = 0) -> "Stage":
        """The stage of a module: nested `nn.Sequential`s are flattened, any other module is one layer.

        Args:
            module: the stage as a module.
            first_index: the number of layers before it, so that layers are numbered through the whole network.
        """
        leaves = enumerate(leaf_modules(module), start=first_index)
        return cls([Layer.of(leaf, str(index)) for index, leaf in leaves], module)

    @property
    def name(self) -> str:
        """The name of the first layer, by which a stage with layers is known in saved states."""
        return self.layers[0].name

    @property
    def has_changed(self) -> bool:
        """Whether the module it was found in now has other layers, or hooks where they were none."""
        return self._module is not None and [*leaf_modules(self._module)] != [layer.module for layer in self.layers]

    @property
    def parameters(self) -> LayerParameters:
        """The trainable parameters."""
        return [layer.parameters for layer in self.layers]

    def output(self, inputs: Tensor) -> Tensor:
        """The layers' output for a batch, without a tape; recorded by autograd if gradients are enabled."""
        state = inputs
        for layer in self.layers:
            state = layer.forward(state)
        return state

    def forward(self, inputs: Tensor, parameters: LayerParameters | None = None) -> Tape:
        """Run the layers on one micro-batch and keep every layer's input.

        Args:
            inputs: from the stage below, or the network's input.
            parameters: other values to run with.
        """
        state = inputs.detach().requires_grad_(torch.is_grad_enabled() and inputs.is_floating_point())
        states = [state]
        for index, layer in enumerate(self.layers):
            state = layer.forward(state, parameters[index] if parameters else None)
            states.append(state)
        return Tape(states, parameters or self.parameters)

    def backward(
        self, tape: Tape, cotangent: Tensor, wanted: Sequence[int] = (), total: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """The gradient of each layer's parameters (flat), given that of the output.

        Args:
            tape: of a forward pass with gradients enabled; it can be differentiated once.
            cotangent: gradient of the mean loss in the stage's output.
            wanted: the layers for whose inputs the gradient is wanted too; it is left in `tape.cotangents`.
            total: the other micro-batches' gradients; this one's are added in place, and the sum is returned.
        """
        tape.cotangents[len(self.layers)] = cotangent
        targets = [value for own in tape.parameters for value in own.values()]
        count = len(targets)
        targets += [tape.inputs[index] for index in wanted]
        depending = [target for target in targets if target.requires_grad]
        if tape.output.requires_grad and depending:
            found = torch.autograd.grad(tape.output, depending, cotangent, allow_unused=True, materialize_grads=True)
        else:
            found = tuple(torch.zeros_like(target) for target in depending)
        own_gradients = iter(found)
        gradients = [
            next(own_gradients) if target.requires_grad else torch.zeros_like(target, dtype=cotangent.dtype)
            for target in targets
        ]
        tape.cotangents.update(zip(wanted, gradients[count:], strict=True))
        remaining = iter(gradients)
        by_layer = [[next(remaining) for _ in own] for own in tape.parameters]
        if total is None:
            return [flatten(pieces) if pieces else cotangent.new_zeros(0) for pieces in by_layer]
        for known, pieces in zip(total, by_layer, strict=True):
            for place, piece in zip(known.split([piece.numel() for piece in pieces]), pieces, strict=True):
                place.add_(piece.reshape(-1))
        return list(total)


def modules_of(stages: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    """One module per stage: a module is one, except an `nn.ModuleList`, which is a list of them."""
    if isinstance(stages, nn.Module) and not isinstance(stages, nn.ModuleList):
        return [stages]
    if not isinstance(stages, Iterable):
        raise TypeError(f"stages must be a module or a list of modules, got {type(stages).__name__}")
    return list(stages)


def stages_of(modules: Iterable[nn.Module], first_index: int = 0) -> list[Stage]:
    """One stage per module, with layers numbered through all of them from `first_index`."""
    stages: list[Stage] = []
    for module in modules:
        stages.append(Stage.of(module, first_index + sum(len(stage.layers) for stage in stages)))
    return stages


def parameters_of(stages: Iterable[Stage]) -> dict[str, nn.Parameter]:
    """The trainable parameters by global name, "layer index.parameter name"."""
    return {
        f"{layer.name}.{name}": parameter
        for stage in stages
        for layer in stage.layers
        for name, parameter in layer.parameters.items()
    }


def leaf_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that run in order: an `nn.Sequential` is opened if nothing is hooked on, any other stays whole."""
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
