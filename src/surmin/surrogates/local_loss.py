"""The local loss of equation (1): what a block minimises on its own between two trips through the pipe.

Legend: d = θ - θ̄ the step (P,), g = ∂h/∂θ_i, ℍ the block's decoupled curvature, ρ the cubic constant, λ the damping.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LocalLoss:
    """L(d) = ⟨g, d⟩ + ½ dᵀ(κ G + λ I)d + (2ρ/3)‖d‖³.

    Attributes:
        gradient: g, a flat vector (P,).
        curvature: v ↦ G v.
        inflation: κ.
        cubic: ρ.
        damping: λ; zero in the bound of equation (1) itself.
    """

    gradient: Tensor
    curvature: Callable[[Tensor], Tensor]
    inflation: float = 1.0
    cubic: float = 0.0
    damping: float = 0.0

    def __call__(self, step: Tensor) -> Tensor:
        """L(d), a 0-dimensional tensor; L(0) = 0."""
        return self.gradient.dot(step) + 0.5 * step.dot(self.product(step)) + 2 * self.cubic / 3 * step.norm() ** 3

    def gradient_at(self, step: Tensor, product: Tensor) -> Tensor:
        """∇L(d) = g + (κ G + λ I) d + 2ρ‖d‖ d, given the product (κ G + λ I) d."""
        return self.gradient + product + 2 * self.cubic * step.norm() * step

    def product(self, direction: Tensor) -> Tensor:
        """(κ G + λ I) v, the Hessian of the quadratic part.

        Raises:
            ValueError: if v requires gradients: G v is computed without a graph.
        """
        if direction.requires_grad and torch.is_grad_enabled():
            raise ValueError("a LocalLoss cannot be differentiated: use its gradient_at(step, product(step))")
        return torch.add(self.damping * direction, self.curvature(direction), alpha=self.inflation)

    def damped(self, damping: float) -> "LocalLoss":
        """The same local loss with another λ."""
        return replace(self, damping=damping)

    def inflated(self, inflation: float) -> "LocalLoss":
        """The same local loss with another κ."""
        return replace(self, inflation=inflation)
