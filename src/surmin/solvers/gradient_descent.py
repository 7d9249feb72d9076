"""Gradient descent on a local loss, with a fixed step or with Armijo's line search (Algorithm 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.solvers.result import SolverResult, finish, undamped_decrease
from surmin.surrogates.local_loss import LocalLoss

SUFFICIENT = 1e-4
"""c of Armijo's condition."""
HALVINGS = 40
"""Number of lengths tried at once."""


@dataclass(frozen=True)
class GradientDescent:
    """ω_{k+1} = ω_k - α ∇L(ω_k) for `steps` steps of fixed size α = `learning_rate`.

    The damping term of L is taken at ω_{k+1}, which makes the step size α / (1 + α λ): one that is short enough without
    damping stays so for every λ that the acceptance test may ask for.
    """

    steps: int
    learning_rate: float

    def solve(self, loss: LocalLoss) -> SolverResult:
        """N steps from d = 0, cubic term included."""
        step = torch.zeros_like(loss.gradient)
        image = torch.zeros_like(step)
        length = self.learning_rate / (1 + self.learning_rate * loss.damping)
        for _ in range(self.steps):
            step = step - length * loss.gradient_at(step, image)
            image = loss.product(step)
        return finish(step, undamped_decrease(loss, step, image))


@dataclass(frozen=True)
class ArmijoGradientDescent:
    """Gradient descent whose every step satisfies L(ω - α∇L) ≤ L(ω) - c α ‖∇L‖².

    α starts at `learning_rate`, doubles after a step, and halves until the condition holds, over several steps if need
    be. L is a quadratic plus a cubic along a line, so a trial costs no curvature product.
    """

    steps: int
    learning_rate: float = 1.0

    def solve(self, loss: LocalLoss) -> SolverResult:
        """N steps from d = 0, cubic term included."""
        step = torch.zeros_like(loss.gradient)
        image = torch.zeros_like(step)
        length = torch.full((), self.learning_rate, dtype=step.dtype, device=step.device)
        for _ in range(self.steps):
            gradient = loss.gradient_at(step, image)
            product = loss.product(gradient)
            found = _search(loss, step, gradient, product, length)
            step, image = step - found * gradient, image - found * product
            length = torch.where(found > 0, 2 * found, 0.5**HALVINGS * length)
        return finish(step, undamped_decrease(loss, step, image))


def _search(loss: LocalLoss, step: Tensor, gradient: Tensor, product: Tensor, length: Tensor) -> Tensor:
    """The first of α, α/2, α/4, … that decreases enough; all are evaluated at once. Zero if none does.

    With g the gradient at d and n = ‖d - α g‖, ‖·‖³ changes by 3/2 ‖d‖ (n² - ‖d‖²) + (n - ‖d‖)² (n + ‖d‖/2). The part
    of this that is linear in α is also in -α ‖g‖²: left out of both, it need not cancel.
    """
    lengths = length * 0.5 ** torch.arange(HALVINGS, dtype=step.dtype, device=step.device)
    squared, size = gradient.dot(gradient), step.norm()
    grown = lengths**2 * squared - 2 * lengths * step.dot(gradient)
    norms = (size.square() + grown).clamp_min(0).sqrt()
    longer = grown / (norms + size).clamp_min(torch.finfo(step.dtype).tiny)
    curved = gradient.dot(product) + 2 * loss.cubic * size * squared
    cubic = 2 * loss.cubic / 3 * longer.square() * (norms + 0.5 * size)
    change = -lengths * squared + 0.5 * lengths**2 * curved + cubic
    enough = change <= -SUFFICIENT * lengths * squared
    return torch.where(enough, lengths, torch.zeros_like(lengths)).amax()
