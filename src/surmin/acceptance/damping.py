"""Accepting a step and adapting the damping λ and the inflation κ (after Levenberg and Marquardt)."""

import math
from dataclasses import dataclass, replace

PATIENCE, ACCEPT_LATE_ABOVE = 3, 0.1
"""After this many rejections in a row a smaller ratio is enough: damping does not help, and every try costs a wave."""
POOR, GOOD = 0.25, 0.75
LOWER = 1 / 3
LEAST_RAISE, LARGEST_RAISE = 2.0, 4.0
TIGHTEN_ABOVE, TIGHTEN = 1.1, 0.8
INFLATION_POWER = 0.25
SMALLEST, LARGEST = 1e-12, 1e12


def reduction_ratio(loss: float, new_loss: float, predicted: float) -> float:
    """Actual over predicted decrease; NaN if nothing was predicted or a loss is not finite."""
    if not (math.isfinite(new_loss) and math.isfinite(predicted) and predicted > 0):
        return math.nan
    return (loss - new_loss) / predicted


def within_bounds(changed: float, damping: float) -> float:
    """A changed λ between `SMALLEST` and `LARGEST`, or as far beyond them as it was before."""
    return min(max(changed, min(damping, SMALLEST)), max(damping, LARGEST))


def adapted(damping: float, ratio: float, lower: float, higher: float) -> float:
    """The next λ, within bounds (Levenberg, Marquardt): `lower` times it above ¾, `higher` times below ¼ or at NaN."""
    factor = lower if ratio > GOOD else 1.0 if ratio >= POOR else higher
    return within_bounds(damping * factor, damping)


def is_acceptable(loss: float, new_loss: float, predicted: float, least: float, tries: int = 1) -> bool:
    """Majorisation needs the bound only at the new point: the loss fell by a fair part of what was predicted.

    Args:
        loss: at the current parameters.
        new_loss: at the new ones.
        predicted: predicted decrease.
        least: ratio of the two decreases that is required.
        tries: forward waves spent on the round's step.
    """
    if tries > PATIENCE:
        least = min(least, ACCEPT_LATE_ABOVE)
    return new_loss < loss and reduction_ratio(loss, new_loss, predicted) > least


@dataclass(frozen=True)
class Damping:
    """λ, and the share of the decoupling's inflation in use.

    Attributes:
        value: λ.
        inflation_share: 1 for all of κ, with which the local losses bound the loss by Lemma 1.
        least_share: how far the share may go down: at most to what leaves κ = 1, below which nothing is gained.
    """

    value: float
    inflation_share: float = 1.0
    least_share: float = 0.0

    def after_rejection(self, ratio: float, spread: float = 1.0) -> "Damping":
        """Every λ above the largest that was tried, inflation back towards the bound.

        Along a step d, the loss is assumed to start falling at twice the predicted decrease, as it does without damping
        (with a lot of damping, at once the predicted decrease), and at d it has fallen by `ratio` of that decrease. The
        parabola through these has its minimum at d / (2 - ratio), about the step of a λ larger by that factor.

        Args:
            ratio: of the best rejected step; NaN if its loss is not finite.
            spread: the candidates' largest λ over the smallest.
        """
        shorter = LARGEST_RAISE if math.isnan(ratio) else min(max(2 - ratio, LEAST_RAISE), LARGEST_RAISE)
        value = within_bounds(self.value * shorter * spread, self.value)
        return self._with(value, self.inflation_share / TIGHTEN)

    def after_acceptance(self, ratio: float) -> "Damping":
        """λ down if the model was trusted; less inflation if the bound was loose."""
        value = within_bounds(self.value * LOWER, self.value) if ratio > GOOD else self.value
        return self._with(value, self.inflation_share * (TIGHTEN if ratio > TIGHTEN_ABOVE else 1.0))

    def candidate(self, factor: float) -> "Damping":
        """Another λ; a bolder candidate also uses less inflation, as far as that may go down."""
        value = within_bounds(self.value * factor, self.value)
        return self._with(value, self.inflation_share * factor**INFLATION_POWER)

    def at_most(self, value: float) -> "Damping":
        """λ capped: damping so large that steps vanish would never be tested, nor come down."""
        return self._with(min(self.value, value), self.inflation_share)

    def _with(self, value: float, share: float) -> "Damping":
        return replace(self, value=value, inflation_share=max(self.least_share, min(1.0, share)))
