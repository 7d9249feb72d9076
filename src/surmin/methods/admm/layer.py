"""One linear layer in dlADMM: its variables and the updates of each with the others fixed.

Legend: W, b the layer's weight and bias, a its input, m = W a + b, z its output, h = f(z₋) what the activation makes of
the output of the layer before, v = u/ρ the scaled dual variable (0 but at the top), r = m - z - v, n the number of
samples. The parts of the augmented Lagrangian with W, b or a are ρ/n times Σ ½‖r‖² and Σ ½‖a - h‖².
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from surmin.methods.admm.outputs import SMOOTH
from surmin.replicas import Replicas
from surmin.stages.closed_form import is_plain_elementwise, is_plain_linear
from surmin.stages.layer import Layer
from surmin.stages.stage import Stage

OTHERS = "sm and adam can train this network"


@dataclass
class AdmmLayer:
    """A linear layer with the variables that stand for its input and output, for a whole batch.

    Attributes:
        layer: the linear layer.
        activation: after it; None if none.
        replicas: which sums over samples are averaged over.
        entering: a; the network's own input at the first layer.
        fed: h; empty at the first layer.
        output: z.
        dual: u; empty except at the network's last layer.
        made: m, kept current by the updates of W, b and a.
    """

    layer: Layer
    activation: Layer | None
    replicas: Replicas
    entering: Tensor
    fed: Tensor
    output: Tensor
    dual: Tensor
    made: Tensor

    @classmethod
    def of(cls, layer: Layer, activation: Layer | None, replicas: Replicas) -> "AdmmLayer":
        """Without values yet."""
        nothing = layer.parameters["weight"].detach().new_zeros(0)
        return cls(layer, activation, replicas, nothing, nothing, nothing, nothing, nothing)

    @property
    def name(self) -> str:
        """The weight's global name."""
        return f"{self.layer.name}.weight"

    @property
    def weight(self) -> nn.Parameter:
        """W."""
        return self.layer.parameters["weight"]

    def make(self) -> None:
        """m = W a + b."""
        self.made = linear(self.entering, self.weight, self.layer.parameters.get("bias"))

    def activated(self) -> Tensor:
        """f(z)."""
        return self.output if self.activation is None else self.activation.forward(self.output)

    def update_weight(self, penalty: float) -> None:
        """W ← W - G/θ, G = rᵀa/n; θ the least power of two with Σ ½‖r‖²/n below its quadratic model at the new W."""
        samples = len(self.entering)
        rows, columns = self.entering.flatten(0, -2), self._residual(penalty).flatten(0, -2)
        gradient = self.replicas.mean(columns.t() @ rows / samples)
        change = linear(self.entering, gradient)
        curvature = self.replicas.mean(change.square().sum() / samples)
        length = 1 / _power_of_two(curvature / gradient.square().sum())
        self.weight.sub_(length * gradient)
        self.made = self.made - length * change

    def update_bias(self, penalty: float) -> None:
        """b ← b - mean of r, the minimiser."""
        if "bias" in self.layer.parameters:
            change = self.replicas.mean(self._residual(penalty).flatten(0, -2).mean(0))
            self.layer.parameters["bias"].sub_(change)
            self.made = self.made - change

    def update_entering(self, penalty: float) -> None:
        """a ← a - G/τ, G = Wᵀr + a - h; τ for every sample the least power of two as above. The first layer's stays."""
        if not self.fed.numel():
            return
        gradient = self._residual(penalty) @ self.weight + self.entering - self.fed
        change = linear(gradient, self.weight)
        square = gradient.square().sum(-1, keepdim=True)
        length = 1 / _power_of_two((change.square().sum(-1, keepdim=True) + square) / square)
        self.entering = self.entering - length * gradient
        self.made = self.made - length * change

    def update_dual(self, penalty: float) -> None:
        """u ← u + ρ (z - m)."""
        self.dual = self.dual + penalty * (self.output - self.made)

    def _residual(self, penalty: float) -> Tensor:
        residual = self.made - self.output
        return residual - self.dual / penalty if self.dual.numel() else residual


def admm_layers(
    stage: Stage, replicas: Replicas, *, is_first: bool, is_last: bool
) -> tuple[list[Layer], list[AdmmLayer]]:
    """The layers of a stage that only prepare the network's input, and the linear ones with their activations.

    Raises:
        ValueError: if there are others, naming the first.
    """
    leading: list[Layer] = []
    found: list[AdmmLayer] = []
    may_be_activation = False
    for layer in stage.layers:
        if is_plain_linear(layer):
            found.append(AdmmLayer.of(layer, None, replicas))
            may_be_activation = True
        elif may_be_activation and is_plain_elementwise(layer) and isinstance(layer.module, (nn.ReLU, *SMOOTH)):
            found[-1].activation = layer
            may_be_activation = False
        elif is_first and not found and not list(layer.module.parameters()):
            leading.append(layer)
        else:
            raise ValueError(
                "dladmm needs trainable linear layers with one activation after each, ReLU or a smooth one, in its "
                f"stage: {layer} is not one; {OTHERS}"
            )
    if not found:
        raise ValueError(
            "dladmm needs a linear layer in every stage: cut the network differently; sm and adam can train it as it is"
        )
    if is_last and found[-1].activation is not None:
        raise ValueError(
            "dladmm needs a network that ends with a linear layer, whose output goes into the loss: "
            f"{stage.layers[-1]} is not one; {OTHERS}"
        )
    return leading, found


def _power_of_two(bound: Tensor) -> Tensor:
    """The least power of two that is no smaller; infinite where the gradient is 0."""
    return torch.where(bound > 0, bound.log2().ceil().exp2(), torch.inf)
