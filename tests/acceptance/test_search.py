import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from surmin.acceptance.candidates import Attempt, Candidate, Order, Point
from surmin.acceptance.damping import Damping
from surmin.acceptance.search import Search, Trial
from surmin.errors import NonFiniteError
from surmin.options import Options
from surmin.pipeline.wave import Wave


@pytest.mark.parametrize(
    ("candidates", "retried"), [((0.0, 0.3), (0.0, 0.3)), ((0.3, 0.9), (0.0,)), ((0.3,), (0.0,))], ids=str
)
def test_a_retry_drops_momentum_where_every_candidate_had_it(
    candidates: tuple[float, ...], retried: tuple[float, ...]
) -> None:
    search = Search(cast(Order, None), replace(Options(), momentum_candidates=candidates))
    assert search._momenta(1) == candidates
    assert search._momenta(2) == retried


class Held:
    """Stands for a wave; it can be seen whether anybody still has it."""


class Given:
    """From a loss of 10, for every damping a candidate with its new loss and predicted decrease, alike in every try.

    Attributes:
        tried: dampings, by try.
        kept: how many waves of the tries before there still were, by try.
    """

    def __init__(self, *candidates: tuple[float, float], gradient_square: float = 1.0) -> None:
        self.candidates = candidates
        self.gradient_square = gradient_square
        self.tried: list[list[float]] = []
        self.kept: list[int] = []
        self._waves: list[weakref.ref[Held]] = []

    def attempt(self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]) -> Attempt:
        self.kept.append(sum(wave() is not None for wave in self._waves))
        self.tried.append([damping.value for damping in dampings])
        waves = [Held() for _ in dampings]
        self._waves += map(weakref.ref, waves)
        found = [
            Candidate(damping, [], [], {}, cast(Wave, wave), *candidate)
            for damping, wave, candidate in zip(dampings, waves, self.candidates, strict=True)
        ]
        return Attempt(found, loss=10.0, gradient_square=self.gradient_square)


def searched(order: Order, **options: Any) -> tuple[Trial, int, Damping]:
    """What a search from λ = 1 ends with, after how many tries, and the damping for the next round."""
    return Search(order, replace(Options(), **options)).run(cast(Point, None), Damping(1.0))


def best_of(*candidates: tuple[float, float], max_tries: int = 8) -> tuple[Trial, int]:
    """What the search ends with, and after how many tries."""
    alike = (1.0,) * len(candidates)
    trial, tries, _ = searched(Given(*candidates), accept_above=0.4, max_tries=max_tries, damping_candidates=alike)
    return trial, tries


def test_of_the_candidates_that_pass_the_one_with_the_least_loss_is_taken() -> None:
    """One that does not pass may have a lower one: much less than it promised."""
    trial, tries = best_of((9.0, 100.0), (9.6, 0.5), (9.5, 1.0), (9.7, 0.5))
    assert trial.accepted and trial.step.new_loss == 9.5 and tries == 1


@pytest.mark.parametrize(("max_tries", "accepted"), [(3, False), (8, True)])
def test_after_three_rejections_less_of_what_was_promised_is_enough(max_tries: int, accepted: bool) -> None:
    trial, tries = best_of((9.8, 1.0), max_tries=max_tries)
    assert trial.accepted == accepted and tries == min(4, max_tries)


def test_a_candidate_without_a_loss_is_no_better_than_one_with_a_loss() -> None:
    trial, _ = best_of((math.nan, 1.0), (9.9, 1.0), (-math.inf, 1.0), max_tries=1)
    assert not trial.accepted and trial.step.new_loss == 9.9


@pytest.mark.parametrize(("predicted", "following"), [(1.5, 0.1), (1.0, 0.1 / 3)])
def test_the_next_round_goes_on_from_the_damping_of_the_step_that_was_taken(predicted: float, following: float) -> None:
    order = Given((9.9, 0.2), (9.0, predicted), (9.5, 1.0))
    trial, _, damping = searched(order, damping_candidates=(1.0, 0.1, 3.0))
    assert trial.accepted and damping.value == pytest.approx(following)


def test_a_retry_begins_above_all_that_failed_as_far_as_the_best_of_them_says() -> None:
    """It rose by what was promised: the parabola has its least at a third of it, and the candidates span ten."""
    order = Given((11.0, 1.0), (12.0, 1.0))
    trial, _, damping = searched(order, damping_candidates=(1.0, 0.1), max_tries=2)
    assert not trial.accepted
    assert order.tried == [pytest.approx([1.0, 0.1]), pytest.approx([30.0, 3.0])]
    assert damping.value == pytest.approx(900.0)


def test_the_waves_of_steps_that_failed_are_gone_when_the_next_are_made() -> None:
    order = Given((11.0, 1.0), (12.0, 1.0))
    searched(order, damping_candidates=(1.0, 0.1), max_tries=3)
    assert order.kept == [0, 0, 0]


@pytest.mark.parametrize("square", [math.inf, math.nan])
def test_from_a_gradient_that_is_not_finite_no_step_is_taken(square: float) -> None:
    with pytest.raises(NonFiniteError, match="its gradient's square"):
        searched(Given((9.0, 1.0), gradient_square=square), damping_candidates=(1.0,))
