import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.optim.lbfgs import _strong_wolfe

from surmin.methods.quasi_newton import wolfe
from surmin.methods.quasi_newton.wolfe import MAX_TRIES, strong_wolfe

Function = Callable[[float], tuple[float, float]]


@dataclass(frozen=True)
class LinePoint:
    length: float
    loss: float
    slope: float

    @property
    def distance(self) -> float:
        return self.length


def search(function: Function, first: float) -> tuple[LinePoint, LinePoint, int]:
    """The start, what the search returns, and how many trials it took."""
    lengths: list[float] = []

    def evaluate(length: float) -> LinePoint:
        lengths.append(length)
        return LinePoint(length, *function(length))

    start = LinePoint(0.0, *function(0.0))
    found = strong_wolfe(evaluate, start, first)
    return start, found, len(lengths)


FUNCTIONS: dict[str, Function] = {
    "parabola": lambda t: ((t - 2) ** 2, 2 * (t - 2)),
    "quartic": lambda t: ((t - 1) ** 4 - t, 4 * (t - 1) ** 3 - 1),
    "waves": lambda t: (math.sin(5 * t) + 0.1 * t * t - 6 * t, 5 * math.cos(5 * t) + 0.2 * t - 6),
    "steep": lambda t: (math.cosh(3 * t - 1), 3 * math.sinh(3 * t - 1)),
    "kink": lambda t: (abs(t - 0.3), -1.0 if t < 0.3 else 1.0),
}


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("name", ["parabola", "quartic", "waves", "steep"])
def test_both_conditions_hold(name: str, first: float) -> None:
    start, found, tries = search(FUNCTIONS[name], first)
    assert found.loss <= start.loss + 1e-4 * found.length * start.slope
    assert abs(found.slope) <= 0.9 * abs(start.slope)
    assert tries <= MAX_TRIES + 1


def test_a_good_first_length_is_taken() -> None:
    _, found, tries = search(FUNCTIONS["parabola"], 2.1)
    assert (found.length, tries) == (2.1, 1)


def test_at_a_kink_the_lowest_trial_is_returned() -> None:
    _, found, tries = search(FUNCTIONS["kink"], 1.0)
    assert found.length == pytest.approx(0.3, abs=1e-3)
    assert tries <= MAX_TRIES + 1


def test_a_bracket_of_no_width_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, tries = search(FUNCTIONS["kink"], 1.0)
    monkeypatch.setattr(wolfe, "SMALLEST_BRACKET", 0.1)
    _, found, fewer = search(FUNCTIONS["kink"], 1.0)
    assert found.length == pytest.approx(0.3, abs=0.1) and fewer < tries


def test_it_backs_off_from_where_the_loss_is_not_finite() -> None:
    def walled(length: float) -> tuple[float, float]:
        return (-math.log(1 - length) - 2 * length, 1 / (1 - length) - 2) if length < 1 else (math.inf, math.nan)

    start, found, _ = search(walled, 100.0)
    assert 0 < found.length < 1 and found.loss < start.loss


def test_without_a_lower_trial_the_start_is_returned() -> None:
    start, found, tries = search(lambda length: (1.0, -1.0) if length == 0 else (math.inf, math.nan), 1.0)
    assert found is start and tries == MAX_TRIES + 1
    start, found, _ = search(lambda length: (1.0 + length, -1.0), 1.0)
    assert found is start


def bumpy(seed: int) -> Function:
    """A bowl with bumps, and for every other seed with kinks, that falls at 0."""
    generator = torch.Generator().manual_seed(seed)
    width, height, phase, kink = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    kink = 2 * kink if seed % 2 else 0.0

    def function(t: float) -> tuple[float, float]:
        angle = (1 + 20 * width) * t + 6 * phase
        loss = height * math.cos(angle) + 0.3 * (t - 3) ** 2 + kink * abs(t - 1.7)
        slope = -height * (1 + 20 * width) * math.sin(angle) + 0.6 * (t - 3)
        return loss, slope + math.copysign(kink, t - 1.7)

    return function if function(0.0)[1] < 0 else mirrored(function)


def mirrored(function: Function) -> Function:
    return lambda t: (function(-t)[0], -function(-t)[1])


def torch_search(function: Function, first: float) -> tuple[float, int]:
    """Where torch's line search ends, and how many trials it took."""
    one = torch.ones(1, dtype=torch.float64)

    def evaluate(_: Tensor, length: float, __: Tensor) -> tuple[float, Tensor]:
        loss, slope = function(float(length))
        return loss, slope * one

    loss, slope = evaluate(one, 0.0, one)
    _, _, length, tries = _strong_wolfe(evaluate, 0 * one, first, one, loss, slope, slope[0])
    return float(length), tries


@pytest.mark.parametrize("first", [0.02, 0.5, 1.0, 7.0])
def test_the_same_trials_as_torch(first: float) -> None:
    for seed in range(100):
        expected, expected_tries = torch_search(bumpy(seed), first)
        _, found, tries = search(bumpy(seed), first)
        assert (found.length, tries) == (pytest.approx(expected, rel=1e-8), expected_tries), seed


def test_a_loss_without_a_floor_ends_the_search() -> None:
    _, found, tries = search(lambda length: (-length, -1.0), 1.0)
    assert math.isfinite(found.length) and found.length > 1 and tries == MAX_TRIES + 1
