"""How far a method is ahead of the best other one, as far as runs that stop at a target loss can tell."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Gap:
    """What is known of log₁₀ of the best other loss over a method's own: it lies between two numbers, usually equal."""

    low: float
    high: float

    @classmethod
    def between(cls, other: float, own: float, target: float) -> "Gap":
        """From two losses; one at the target may be any lower, an infinite one belongs to a run that diverged."""
        if math.isinf(own):
            return cls(-math.inf, -math.inf)
        ratio = math.inf if math.isinf(other) else math.log10(other / own)
        return cls(-math.inf if other <= target else ratio, math.inf if own <= target else ratio)

    def exceeds(self, other: "Gap") -> bool | None:
        """Whether it is larger; None if that is not known."""
        if self.low > other.high:
            return True
        return False if self.high <= other.low else None

    def __str__(self) -> str:
        if math.isfinite(self.low):
            return f"{self.low:+.2f}" if self.low == self.high else f"≥ {self.low:+.2f}"
        if math.isfinite(self.high):
            return f"≤ {self.high:+.2f}"
        if self.low < self.high:
            return "both at the target"
        return "it has no loss" if self.low < 0 else "no other has a loss"


NOTHING = Gap(0.0, 0.0)


def rises(gaps: Sequence[Gap]) -> bool | None:
    """Whether they never fall, and end higher than they began; None if that is not known."""
    falls = (before.exceeds(after) for before, after in pairwise(gaps))
    return every([gaps[-1].exceeds(gaps[0]), *(None if fall is None else not fall for fall in falls)])


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """False if one is, else None if one is."""
    found = set(verdicts)
    return False if False in found else None if None in found else True
