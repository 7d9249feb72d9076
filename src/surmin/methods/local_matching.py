"""LocoProp's local losses: what each layer's output is compared by, and the gradient of that.

Legend: a = f(x, θ) a layer's output before its activation, s the transfer function that the local loss compares by, g
the gradient of one sample's loss in a; a bar marks the round's start.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from surmin.losses import ConvexLoss
from surmin.pipeline.held_stages import Boundaries
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.elementwise import ELEMENTWISE
from surmin.stages.layer import Layer, flatten
from surmin.stages.stage import Stage
from surmin.stages.tape import layer_inputs
from surmin.work import WorkMeter

NOT_INCREASING = (nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
Transfer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LocalLayer:
    """A trainable layer and what its local loss compares by.

    Attributes:
        stage: whose layer it is.
        index: of the layer in the stage.
        activation: the elementwise module after it, if the local loss compares activations; otherwise None.
        ends_network: whether its output is the network's.
    """

    stage: Stage
    index: int
    activation: Layer | None
    ends_network: bool

    @property
    def layer(self) -> Layer:
        """The layer."""
        return self.stage.layers[self.index]


@dataclass(frozen=True)
class LocalMatching:
    """D(f(x, θ), target), the mean over samples, as a function of θ; ∇_a D = (s(a) - s(ā) + γ g) / n.

    With s(a) = a it is the squared loss to the target ā - γ g, with an activation the matching loss to s(ā) - γ g, and
    with s = ∇ℓ the Bregman divergence of the network's loss. At θ̄ the gradient is γ ∇h in all cases.

    Attributes:
        layer: the layer.
        inputs: x of the whole batch.
        transfer: s.
        target: s(ā) - γ g.
        work: counts the evaluations.
        samples: n, and what else identifies equal work.
    """

    layer: Layer
    inputs: Tensor
    transfer: Transfer
    target: Tensor
    work: WorkMeter
    samples: torch.Size

    @classmethod
    @torch.no_grad()
    def of(
        cls, local: LocalLayer, wave: Wave, pipeline: WorkerPipeline, rate: float, kind: Literal["squared", "matching"]
    ) -> "LocalMatching":
        """After a gradient wave that kept the gradient in the layer's output; γ = `rate`."""
        tapes = wave.tapes[pipeline.stages.index(local.stage)]
        inputs, outputs = (layer_inputs(tapes, index) for index in (local.index, local.index + 1))
        cotangent = torch.cat([tape.cotangents[local.index + 1] for tape in tapes])
        transfer = _transfer(local, kind, pipeline.loss, wave.targets)
        target = transfer(outputs) - rate * len(outputs) * cotangent
        return cls(local.layer, inputs, transfer, target, pipeline.work, wave.shape)

    def gradient(self) -> Tensor:
        """∇_θ D at the layer's parameters, flat."""
        own = list(self.layer.parameters.values())
        with self.work.phase(("local matching", self.samples, self.layer.name)):
            with torch.enable_grad():
                outputs = self.layer.forward(self.inputs)
            with torch.no_grad():
                cotangent = (self.transfer(outputs.detach()) - self.target) / len(outputs)
            if not outputs.requires_grad:  # they do not depend on the parameters
                return torch.zeros_like(flatten(own))
            pieces = torch.autograd.grad(outputs, own, cotangent, allow_unused=True, materialize_grads=True)
        return flatten(pieces)


def local_layers(pipeline: WorkerPipeline, kind: Literal["squared", "matching"]) -> list[LocalLayer]:
    """The trainable layers here, in order.

    Raises:
        ValueError: if one cannot have a matching loss; the message says which and why.
    """
    found = []
    for position, stage in enumerate(pipeline.stages):
        if kind == "matching" and stage.layers and pipeline.has_below(position):
            _check_first(stage.layers[0])
        for index, layer in enumerate(stage.layers):
            if layer.size:
                after = stage.layers[index + 1] if index + 1 < len(stage.layers) else None
                activation = after if after is not None and type(after.module) in ELEMENTWISE else None
                if kind == "matching" and activation is not None:
                    _check_increasing(activation)
                found.append(LocalLayer(stage, index, activation, after is None and not pipeline.has_above(position)))
    return found


def boundaries(layers: Sequence[LocalLayer]) -> Boundaries:
    """Where the gradient wave must keep gradients: at every such layer's output."""
    wanted: dict[Stage, list[int]] = {}
    for local in layers:
        wanted.setdefault(local.stage, []).append(local.index + 1)
    return {stage: [index for index in own if index < len(stage.layers)] for stage, own in wanted.items()}


def _transfer(
    local: LocalLayer, kind: Literal["squared", "matching"], loss: ConvexLoss, targets: Sequence[Tensor]
) -> Transfer:
    if kind == "matching" and local.activation is not None:
        return local.activation.forward
    if kind == "matching" and local.ends_network:
        labels = torch.cat(list(targets))
        return lambda outputs: loss.gradient(outputs, labels)
    return lambda outputs: outputs


def _check_increasing(activation: Layer) -> None:
    module = activation.module
    falls = isinstance(module, NOT_INCREASING) or getattr(module, "negative_slope", 0.0) < 0
    if falls:
        raise ValueError(
            f"locoprop's matching loss needs activations that never decrease: {activation} is not one; "
            "choose another, or local_loss squared"
        )


def _check_first(layer: Layer) -> None:
    if type(layer.module) in ELEMENTWISE:
        raise ValueError(
            "locoprop's matching loss needs each activation in the same stage as the layer it follows: "
            f"{layer} begins a stage; cut the network after it"
        )
