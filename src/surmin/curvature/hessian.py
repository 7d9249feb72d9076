"""Products with the Hessian of a block's surrogate, exact: the blocks H_zz, H_zθ and H_θθ of Appendix A.

Legend: Ψ(z, θ) = Σ_j [⟨g_j, f(z_j, θ) - f̄_j⟩ + ½ L_j ‖f(z_j, θ) - f̄_j‖²] in per-sample units (the caller divides by n);
u a direction in the block's input (n, *in), v a flat direction in its parameters (P,).
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from surmin.curvature.recorded_hessian import FiniteDifferenceHessian, GenericHessian
from surmin.curvature.shapes import spread_over
from surmin.stages.block import Block
from surmin.stages.closed_form import is_plain_elementwise, is_plain_linear
from surmin.stages.elementwise import elementwise_derivative, elementwise_second_derivative
from surmin.stages.layer import Layer, flatten

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
    """The Hessian of a block's Ψ: closed form for a linear layer with its activation, otherwise recorded once.

    Args:
        block: the block.
        inputs: its input at the expansion point, (n, *in).
        cotangent: g, per-sample gradients at its output, (n, *out).
        curvature: L_j of each sample, (n,).
        products: "exact", or "finite-difference" as in the paper, for comparison.
    """
    spread = spread_over(curvature, cotangent)
    if products == "finite-difference":
        return FiniteDifferenceHessian(block, inputs, cotangent, spread)
    first, others = block.layers[:1], block.layers[1:]
    linear = bool(first) and is_plain_linear(first[0]) and inputs.dim() == 2
    if linear and len(others) <= 1 and all(is_plain_elementwise(layer) for layer in others):
        return LinearHessian(block.layers, inputs, cotangent, spread)
    return GenericHessian(block, inputs, cotangent, spread)


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
