"""Line search for the strong Wolfe conditions, by scalars alone: bracket a good length, then close in on it by cubics.

Legend: φ(t) the loss at length t along a direction, φ' its derivative. A trial is good when
φ(t) ≤ φ(0) + c₁ t φ'(0) and |φ'(t)| ≤ -c₂ φ'(0). The procedure and its constants are those of torch's L-BFGS.
"""

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

SUFFICIENT_DECREASE = 1e-4  # c₁
SLOPE_SHARE = 0.9  # c₂
MAX_TRIES = 25  # after the first trial
SMALLEST_BRACKET = 1e-9


class LinePoint(Protocol):
    """What one evaluation tells; the loss is infinite if a step leads to no finite value."""

    @property
    def length(self) -> float:
        """t."""

    @property
    def loss(self) -> float:
        """φ(t)."""

    @property
    def slope(self) -> float:
        """φ'(t)."""

    @property
    def distance(self) -> float:
        """Euclidean distance from the start."""


T = TypeVar("T", bound=LinePoint)


def strong_wolfe(evaluate: Callable[[float], T], start: T, length: float) -> T:
    """Search along a descent direction.

    Args:
        evaluate: the trial at a length.
        start: at length 0, its slope below 0.
        length: the first to try.

    Returns:
        A trial that satisfies both conditions; if none is found, the lowest one, which may be `start`.
    """
    low, high, left = _bracket(evaluate, start, length)
    close = False  # whether the last trial came close to an end
    while left and abs(high.distance - low.distance) >= SMALLEST_BRACKET:
        length, close = _kept_off_ends(_cubic_minimum(low, high, *_ends(low, high)), low, high, close)
        trial = evaluate(length)
        left -= 1
        if not _is_low_enough(trial, start) or trial.loss >= low.loss:
            low, high = (trial, low) if trial.loss < low.loss else (low, trial)
        elif _is_flat_enough(trial, start):
            return trial
        else:
            low, high = trial, low if trial.slope * (high.length - low.length) >= 0 else high
    return low


def _bracket(evaluate: Callable[[float], T], start: T, length: float) -> tuple[T, T, int]:
    """Two trials with a good length between them, the lower first, or a good trial twice; and the tries left."""
    last, trial = start, evaluate(length)
    for tries in range(MAX_TRIES):
        if not _is_low_enough(trial, start) or (tries > 1 and trial.loss >= last.loss):
            return *_sorted(last, trial), MAX_TRIES - tries
        if _is_flat_enough(trial, start):
            return trial, trial, 0
        if trial.slope >= 0:
            return *_sorted(last, trial), MAX_TRIES - tries
        ends = trial.length + 0.01 * (trial.length - last.length), 10 * trial.length
        last, trial = trial, evaluate(_cubic_minimum(last, trial, *ends))
    return *_sorted(start, trial), 0


def _is_low_enough(trial: LinePoint, start: LinePoint) -> bool:
    return trial.loss <= start.loss + SUFFICIENT_DECREASE * trial.length * start.slope


def _is_flat_enough(trial: LinePoint, start: LinePoint) -> bool:
    return abs(trial.slope) <= -SLOPE_SHARE * start.slope


def _sorted(first: T, second: T) -> tuple[T, T]:
    return (first, second) if first.loss <= second.loss else (second, first)


def _ends(low: LinePoint, high: LinePoint) -> tuple[float, float]:
    return min(low.length, high.length), max(low.length, high.length)


def _cubic_minimum(first: LinePoint, second: LinePoint, lower: float, upper: float) -> float:
    """The minimum of the cubic through both trials, within limits; the middle if there is no such cubic."""
    if first.length > second.length:
        first, second = second, first
    width = second.length - first.length
    bend = first.slope + second.slope + 3 * (second.loss - first.loss) / -width
    square = bend * bend - first.slope * second.slope
    root = math.sqrt(square) if square >= 0 else math.nan
    divisor = second.slope - first.slope + 2 * root
    least = second.length - width * ((second.slope + root - bend) / divisor) if divisor else math.nan
    return min(max(least, lower), upper) if math.isfinite(least) else (lower + upper) / 2


def _kept_off_ends(length: float, low: LinePoint, high: LinePoint, close: bool) -> tuple[float, bool]:
    """The length, moved a tenth into the bracket if it comes close to an end twice in a row or leaves the bracket."""
    lower, upper = _ends(low, high)
    margin = 0.1 * (upper - lower)
    if min(upper - length, length - lower) >= margin:
        return length, False
    if not close and lower < length < upper:
        return length, True
    return (upper - margin if upper - length < length - lower else lower + margin), False
