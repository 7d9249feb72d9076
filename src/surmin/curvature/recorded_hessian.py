"""Products with the Hessian of any block's surrogate, from its recorded gradient or from differences of gradients.

Legend: as in `surmin.curvature.hessian`.
"""

import torch
from torch import Tensor

from surmin.stages.block import Block
from surmin.stages.recorded import naming, pull, recording, require_second_derivatives


class SurrogateGradient:
    """∇Ψ of any block, by reverse mode."""

    def __init__(self, block: Block, inputs: Tensor, cotangent: Tensor, curvature: Tensor) -> None:
        self.block = block
        self.cotangent = cotangent
        self.curvature = curvature
        self.inputs = inputs.detach().requires_grad_(inputs.is_floating_point())
        self.parameters = (block.vector() if block.size else cotangent.new_zeros(0)).requires_grad_()
        self.output = self.forward(self.inputs, self.parameters)

    def forward(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """f, recorded."""
        state = inputs
        with naming(*self.block.layers), recording():
            for layer, piece in zip(self.block.layers, self.block.split(parameters), strict=True):
                state = layer.forward(state, layer.unflatten(piece))
        return state

    @torch.enable_grad()
    def pulled(
        self, inputs: Tensor, parameters: Tensor, output: Tensor, *, record: bool = False
    ) -> tuple[Tensor, Tensor]:
        """∇_θ Ψ and ∇_z Ψ where f is this output; ∇_f Ψ = g + L (f - f̄)."""
        output_gradient = self.cotangent + self.curvature * (output - self.output.detach())
        with naming(*self.block.layers):
            if not inputs.is_floating_point():
                return pull([output], [parameters], [output_gradient], record=record)[0], torch.zeros_like(inputs)
            own, below = pull([output], [parameters, inputs], [output_gradient], record=record)
        return own, below


class GenericHessian:
    """Reverse mode over reverse mode through any block: the gradient of Ψ is recorded once, and pulled back."""

    def __init__(self, block: Block, inputs: Tensor, cotangent: Tensor, curvature: Tensor) -> None:
        self._gradient = gradient = SurrogateGradient(block, inputs, cotangent, curvature)
        self.inputs, self.parameters = gradient.inputs, gradient.parameters
        with naming(*block.layers):
            require_second_derivatives(gradient.output)
        self._own, self._below = gradient.pulled(self.inputs, self.parameters, gradient.output, record=True)

    def input_product(self, direction: Tensor) -> Tensor:
        """Σ u ∇_z Ψ, pulled back to z."""
        return self._pull(self._below, [self.inputs], direction)[0]

    def own_product(self, direction: Tensor) -> Tensor:
        """Σ v ∇_θ Ψ, pulled back to θ."""
        return self._pull(self._own, [self.parameters], direction)[0]

    def parameter_product(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """The same, pulled back to θ and z; an integer input has no H_zθ."""
        if not self.inputs.is_floating_point():
            return self.own_product(direction), torch.zeros_like(self.inputs)
        own, mixed = self._pull(self._own, [self.parameters, self.inputs], direction)
        return own, mixed

    def mixed_transpose(self, direction: Tensor) -> Tensor:
        """Σ u ∇_z Ψ, pulled back to θ."""
        return self._pull(self._below, [self.parameters], direction)[0]

    def _pull(self, gradient: Tensor, targets: list[Tensor], direction: Tensor) -> tuple[Tensor, ...]:
        with naming(*self._gradient.block.layers):
            return pull([gradient], targets, [direction])


class FiniteDifferenceHessian:
    """Every product as the difference of two gradients (Martens 2010), the paper's choice."""

    def __init__(self, block: Block, inputs: Tensor, cotangent: Tensor, curvature: Tensor) -> None:
        self._gradient = gradient = SurrogateGradient(block, inputs, cotangent, curvature)
        self._own, self._below = gradient.pulled(gradient.inputs, gradient.parameters, gradient.output)

    def input_product(self, direction: Tensor) -> Tensor:
        """[∇_z Ψ(z + εu, θ) - ∇_z Ψ(z, θ)] / ε."""
        return self._along_inputs(direction)[1]

    def own_product(self, direction: Tensor) -> Tensor:
        """[∇_θ Ψ(z, θ + εv) - ∇_θ Ψ(z, θ)] / ε; the gradient in z comes with it."""
        return self.parameter_product(direction)[0]

    def parameter_product(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """The same along θ, for both gradients; an integer input has no H_zθ."""
        gradient = self._gradient
        step = _step(gradient.parameters, direction)
        return self._difference(gradient.inputs, gradient.parameters + step * direction, step)

    def mixed_transpose(self, direction: Tensor) -> Tensor:
        """[∇_θ Ψ(z + εu, θ) - ∇_θ Ψ(z, θ)] / ε."""
        return self._along_inputs(direction)[0]

    def _along_inputs(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        gradient = self._gradient
        step = _step(gradient.inputs, direction)
        return self._difference(gradient.inputs + step * direction, gradient.parameters, step)

    def _difference(self, inputs: Tensor, parameters: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        gradient = self._gradient
        inputs = inputs.detach().requires_grad_(inputs.is_floating_point())
        parameters = parameters.detach().requires_grad_()
        own, below = gradient.pulled(inputs, parameters, gradient.forward(inputs, parameters))
        return (own - self._own) / step, (below - self._below) / step


def _step(point: Tensor, direction: Tensor) -> Tensor:
    """ε: half the digits of a point's largest entry, or of 1, along a direction's largest entry."""
    precision = torch.finfo(direction.dtype)
    size = direction.abs().max().clamp_min(precision.tiny)
    return precision.eps**0.5 * point.abs().max().clamp_min(1) / size
