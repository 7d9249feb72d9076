"""Products with the Hessian of a block's surrogate, exact: the blocks H_zz, H_zθ and H_θθ of Appendix A.

Legend: Ψ(z, θ) = Σ_j [⟨g_j, f(z_j, θ) - f̄_j⟩ + ½ L_j ‖f(z_j, θ) - f̄_j‖²] in per-sample units (the caller divides by n);
u a direction in the block's input (n, *in), v a flat direction in its parameters (P,).
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surmin.stages.block import Block
from surmin.stages.closed_form import is_plain_elementwise, is_plain_linear
from surmin.stages.elementwise import elementwise_derivative, elementwise_second_derivative
from surmin.stages.layer import Layer, flatten
from surmin.stages.recorded import naming, pull, recording, require_second_derivatives

HessianProducts = Literal["exact", "finite-difference"]


class SurrogateHessian(Protocol):
    """The Hessian of Ψ at the expansion point."""

    def input_product(self, direction: Tensor) -> Tensor:
        """H_zz u, (n, *in); block-diagonal over samples."""

    def own_product(self, direction: Tensor) -> Tensor:
        """H_θθ v, (P,)."""

    def parameter_product(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """H_θθ v (P,), and H_zθ v (n, *in)."""

    def mixed_transpose(self, direction: Tensor) -> Tensor:
        """H_zθᵀ u, (P,)."""


def surrogate_hessian(
    block: Block, inputs: Tensor, cotangent: Tensor, curvature: Tensor, products: HessianProducts = "exact"
) -> SurrogateHessian:
    """The Hessian of a block's Ψ: closed form for a linear layer with its activation, or recorded once for any other.

    Args:
        block: the block.
        inputs: its input at the expansion point, (n, *in).
        cotangent: g, per-sample gradients at its output, (n, *out).
        curvature: L_j of each sample, (n,).
        products: "exact", or "finite-difference" as the paper has them, for comparison.
    """
    shape = (-1, *[1] * (cotangent.dim() - 1))
    if products == "finite-difference":
        return FiniteDifferenceHessian(block, inputs, cotangent, curvature.view(shape))
    first, others = block.layers[:1], block.layers[1:]
    linear = bool(first) and is_plain_linear(first[0]) and inputs.dim() == 2
    if linear and len(others) <= 1 and all(is_plain_elementwise(layer) for layer in others):
        return LinearHessian(block.layers, inputs, cotangent, curvature.view(shape))
    return GenericHessian(block, inputs, cotangent, curvature.view(shape))


class LinearHessian:
    """f = σ(z Wᵀ + b): with s' = σ'(a), s'' = σ''(a), the Hessian acts through D = s''⊙g + L s'² and e = s'⊙g."""

    def __init__(self, layers: list[Layer], inputs: Tensor, cotangent: Tensor, curvature: Tensor) -> None:
        self.layer = layers[0]
        module = self.layer.module
        assert isinstance(module, nn.Linear)
        self.inputs = inputs
        self.weight = module.weight.detach()
        if len(layers) == 1:
            self.e = cotangent
            self.d = curvature.expand_as(cotangent)
            return
        activation = F.linear(inputs, self.weight, None if module.bias is None else module.bias.detach())
        first = elementwise_derivative(layers[1], activation)
        self.e = first * cotangent
        self.d = elementwise_second_derivative(layers[1], activation) * cotangent + curvature * first.square()

    def input_product(self, direction: Tensor) -> Tensor:
        """(D ⊙ u Wᵀ) W."""
        return (self.d * (direction @ self.weight.t())) @ self.weight

    def own_product(self, direction: Tensor) -> Tensor:
        """(D ⊙ a)ᵀ z, with a = z Vᵀ + v_b."""
        return self._pull(self._change(self.layer.unflatten(direction)))

    def parameter_product(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """(D ⊙ a)ᵀ z for θ, and (D ⊙ a) W + e V for z."""
        tangent = self.layer.unflatten(direction)
        change = self._change(tangent)
        return self._pull(change), change @ self.weight + self.e @ tangent["weight"]

    def mixed_transpose(self, direction: Tensor) -> Tensor:
        """(D ⊙ u Wᵀ)ᵀ z + eᵀ u."""
        change = self.d * (direction @ self.weight.t())
        pulled = self._pull(change)
        pulled[: self.weight.numel()] += (self.e.t() @ direction).reshape(-1)
        return pulled

    def _change(self, tangent: Mapping[str, Tensor]) -> Tensor:
        return self.d * F.linear(self.inputs, tangent["weight"], tangent.get("bias"))

    def _pull(self, change: Tensor) -> Tensor:
        pieces = [change.t() @ self.inputs]
        if "bias" in self.layer.parameters:
            pieces.append(change.sum(0))
        return flatten(pieces)


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
        slope = self.cotangent + self.curvature * (output - self.output.detach())
        with naming(*self.block.layers):
            if not inputs.is_floating_point():
                return pull([output], [parameters], [slope], record=record)[0], torch.zeros_like(inputs)
            own, below = pull([output], [parameters, inputs], [slope], record=record)
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
        return self._difference(direction, torch.zeros_like(self._gradient.parameters))[1]

    def own_product(self, direction: Tensor) -> Tensor:
        """[∇_θ Ψ(z, θ + εv) - ∇_θ Ψ(z, θ)] / ε; that of z comes with it."""
        return self.parameter_product(direction)[0]

    def parameter_product(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """The same along θ, for both gradients; an integer input has no H_zθ."""
        return self._difference(torch.zeros_like(self._gradient.inputs), direction)

    def mixed_transpose(self, direction: Tensor) -> Tensor:
        """[∇_θ Ψ(z + εu, θ) - ∇_θ Ψ(z, θ)] / ε."""
        return self._difference(direction, torch.zeros_like(self._gradient.parameters))[0]

    def _difference(self, input_direction: Tensor, parameter_direction: Tensor) -> tuple[Tensor, Tensor]:
        gradient = self._gradient
        inputs, precision = gradient.inputs, torch.finfo(gradient.parameters.dtype)
        size = torch.cat([input_direction.reshape(-1), parameter_direction]).abs().max().clamp_min(precision.tiny)
        step = precision.eps**0.5 / size
        parameters = (gradient.parameters + step * parameter_direction).detach().requires_grad_()
        if inputs.is_floating_point():
            inputs = (inputs + step * input_direction).detach().requires_grad_()
        own, below = gradient.pulled(inputs, parameters, gradient.forward(inputs, parameters))
        return (own - self._own) / step, (below - self._below) / step
