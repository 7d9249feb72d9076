"""Conjugate gradient whose products are computed elsewhere, for all blocks at once and by messages between workers.

Legend: A the matrix, g the gradient, d the step so far, r = -g - A d the residual, p the search direction; all in units
of a power of two above g, so that pᵀ A p does not underflow.
"""

import torch
from torch import Tensor

from surmin.scaling import power_of_two


class LockstepConjugateGradient:
    """Minimises ⟨g, d⟩ + ½ dᵀ A d from d = 0, one product at a time: multiply `direction` by A, give it to `advance`.

    Plain: the only test is whether the residual is at the level of rounding errors; then, and once stopped, the
    direction is zero. Nothing here waits for the device.

    Args:
        gradient: g, a flat vector (P,).

    Attributes:
        direction: p.
    """

    def __init__(self, gradient: Tensor) -> None:
        self._scale = power_of_two(gradient)
        self._step = torch.zeros_like(gradient)
        self._residual = self.direction = -gradient / self._scale
        self._square = self._residual.dot(self._residual)
        self._target = torch.finfo(gradient.dtype).eps ** 2 * self._square
        self._runs = ~(self._square <= self._target)

    @property
    def step(self) -> Tensor:
        """The step d, in its original units."""
        return self._scale * self._step

    def advance(self, image: Tensor) -> None:
        """One step, given A p."""
        curvature = self.direction.dot(image)
        length = self._square / curvature
        self._runs = self._runs & self._may_go_on(curvature, length)
        self._step = torch.where(self._runs, self._step + length * self.direction, self._step)
        self._residual = torch.where(self._runs, self._residual - length * image, self._residual)
        last, self._square = self._square, self._residual.dot(self._residual)
        self._runs = self._runs & ~(self._square <= self._target)
        onward = self._residual + self._square / last * self.direction
        self.direction = torch.where(self._runs, onward, torch.zeros_like(onward))

    def _may_go_on(self, curvature: Tensor, length: Tensor) -> Tensor:
        return torch.ones_like(self._runs)


class GuardedConjugateGradient(LockstepConjugateGradient):
    """The same, but stops if a direction's curvature is not positive, or vanishes; in the first step d is then -g."""

    def __init__(self, gradient: Tensor) -> None:
        super().__init__(gradient)
        self._fallback = self.direction
        self._is_first = True

    def advance(self, image: Tensor) -> None:
        """One step, given A p."""
        super().advance(image)
        if self._is_first:
            self._step = torch.where(self._runs | (self._step != 0).any(), self._step, self._fallback)
            self._is_first = False

    def _may_go_on(self, curvature: Tensor, length: Tensor) -> Tensor:
        return (curvature > 0) & curvature.isfinite() & length.isfinite()
