"""Conjugate gradient whose products are made elsewhere, for all blocks at once and by messages between workers.

Legend: A the matrix, g the gradient, d the step so far, r = -g - A d the residual, p the search direction.
"""

import torch
from torch import Tensor


class LockstepConjugateGradient:
    """Minimises ⟨g, d⟩ + ½ dᵀ A d from d = 0, one product at a time: multiply `direction` by A, give it to `advance`.

    Plain: nothing is tested but whether the residual is at the level of rounding errors; then, and when it has stopped,
    the direction is zero. Nothing here waits for the device.

    Args:
        gradient: g, a flat vector (P,).

    Attributes:
        step: d.
        direction: p.
    """

    def __init__(self, gradient: Tensor) -> None:
        self.step = torch.zeros_like(gradient)
        self.direction = -gradient
        self._residual = -gradient
        self._square = gradient.dot(gradient)
        self._target = torch.finfo(gradient.dtype).eps ** 2 * self._square
        self._runs = ~(self._square <= self._target)

    def advance(self, image: Tensor) -> None:
        """One step, given A p."""
        curvature = self.direction.dot(image)
        self._runs = self._runs & self._may_go_on(curvature)
        length = self._square / curvature
        self.step = torch.where(self._runs, self.step + length * self.direction, self.step)
        self._residual = torch.where(self._runs, self._residual - length * image, self._residual)
        last, self._square = self._square, self._residual.dot(self._residual)
        self._runs = self._runs & ~(self._square <= self._target)
        onward = self._residual + self._square / last * self.direction
        self.direction = torch.where(self._runs, onward, torch.zeros_like(onward))

    def _may_go_on(self, curvature: Tensor) -> Tensor:
        return torch.ones_like(self._runs)


class GuardedConjugateGradient(LockstepConjugateGradient):
    """The same, stopped where the curvature along a direction is not positive; in the first step d is then -g."""

    def __init__(self, gradient: Tensor) -> None:
        super().__init__(gradient)
        self._fallback = -gradient
        self._is_first = True

    def advance(self, image: Tensor) -> None:
        """One step, given A p."""
        super().advance(image)
        if self._is_first:
            self.step = torch.where(self._runs | (self.step != 0).any(), self.step, self._fallback)
            self._is_first = False

    def _may_go_on(self, curvature: Tensor) -> Tensor:
        return (curvature > 0) & curvature.isfinite()
