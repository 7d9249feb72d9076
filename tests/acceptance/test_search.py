import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from surmin.acceptance.candidates import Attempt, Candidate, Order, Point
from surmin.acceptance.damping import Damping
from surmin.acceptance.search import Search, Trial
from surmin.options import Options


@pytest.mark.parametrize(
    ("candidates", "retried"), [((0.0, 0.3), (0.0, 0.3)), ((0.3, 0.9), (0.0,)), ((0.3,), (0.0,))], ids=str
)
def test_a_retry_drops_momentum_where_every_candidate_had_it(
    candidates: tuple[float, ...], retried: tuple[float, ...]
) -> None:
    search = Search(cast(Order, None), replace(Options(), momentum_candidates=candidates))
    assert search._momenta(1) == candidates
    assert search._momenta(2) == retried


class Given:
    """From a loss of 10, candidates with these new losses and predicted decreases in every try."""

    def __init__(self, *candidates: tuple[float, float]) -> None:
        self.candidates = candidates

    def attempt(self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]) -> Attempt:
        found = [Candidate(dampings[0], [], [], {}, None, *candidate) for candidate in self.candidates]
        return Attempt(found, loss=10.0, gradient_square=1.0)


def best_of(*candidates: tuple[float, float], max_tries: int = 8) -> tuple[Trial, int]:
    """What the search ends with, and after how many tries."""
    search = Search(Given(*candidates), replace(Options(), accept_above=0.4, max_tries=max_tries))
    trial, tries, _ = search.run(cast(Point, None), Damping(1.0))
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
