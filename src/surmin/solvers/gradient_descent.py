"""Gradient descent on a local loss, with a fixed step or with Armijo's line search (Algorithm 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.solvers.result import SolverResult, finish, undamped_decrease
from surmin.surrogates.local_loss import LocalLoss


@dataclass(frozen=True)
class GradientDescent:
    """ω_{k+1} = ω_k - α ∇L(ω_k) for `steps` steps of fixed size α = `learning_rate`.

    The damping term of L is taken at ω_{k+1}, which makes the size α / (1 + α λ): a step that is short enough without
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
        return finish(step, undamped_decrease(loss, step, image), self.steps)


@dataclass(frozen=True)
class ArmijoGradientDescent:
    """Gradient descent whose every step satisfies L(ω - α∇L) ≤ L(ω) - c α ‖∇L‖².

    α starts from `learning_rate`, doubles after a step and halves until the condition holds. L is a quadratic plus a
    cubic along a line, so a trial costs no curvature product.
    """

    steps: int
    learning_rate: float = 1.0
    sufficient: float = 1e-4
    halvings: int = 40

    def solve(self, loss: LocalLoss) -> SolverResult:
        """N steps from d = 0, cubic term included."""
        step = torch.zeros_like(loss.gradient)
        image = torch.zeros_like(step)
        length = torch.full((), self.learning_rate, dtype=step.dtype, device=step.device)
        for _ in range(self.steps):
            slope = loss.gradient_at(step, image)
            bend = loss.product(slope)
            length = self._search(loss, step, image, slope, bend, length)
            step, image = step - length * slope, image - length * bend
            length = 2 * length
        return finish(step, undamped_decrease(loss, step, image), self.steps)

    def _search(
        self, loss: LocalLoss, step: Tensor, image: Tensor, slope: Tensor, bend: Tensor, length: Tensor
    ) -> Tensor:
        """The first of α, α/2, α/4, … that decreases enough; all are valued at once. Zero when none does."""
        lengths = length * 0.5 ** torch.arange(self.halvings, dtype=step.dtype, device=step.device)
        squared = slope.dot(slope)
        along, curved = squared, slope.dot(bend)
        norms = (step.dot(step) - 2 * lengths * step.dot(slope) + lengths**2 * squared).clamp_min(0).sqrt()
        cubic = 2 * loss.cubic / 3 * (norms**3 - step.norm() ** 3)
        plain = along - 2 * loss.cubic * step.norm() * step.dot(slope)
        change = -lengths * plain + 0.5 * lengths**2 * curved + cubic
        enough = change <= -self.sufficient * lengths * squared
        return torch.where(enough, lengths, torch.zeros_like(lengths)).amax()
