import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surmin.acceptance.damping import LARGEST, SMALLEST, Damping, adapted, is_acceptable, reduction_ratio


@given(
    loss=st.floats(-10, 10), change=st.floats(-5, 5), predicted=st.floats(1e-6, 5), least=st.floats(0, 0.9),
    tries=st.integers(1, 8),
)  # fmt: skip
def test_a_step_is_accepted_when_the_loss_fell_by_a_fair_part(
    loss: float, change: float, predicted: float, least: float, tries: int
) -> None:
    new_loss = loss - change
    ratio = (loss - new_loss) / predicted
    assert reduction_ratio(loss, new_loss, predicted) == ratio
    asked = least if tries < 4 else min(least, 0.1)
    assert is_acceptable(loss, new_loss, predicted, least, tries) == (new_loss < loss and ratio > asked)


@pytest.mark.parametrize(
    ("damping", "ratio", "expected"),
    [
        (0.3, 0.76, 0.2),
        (0.3, 0.75, 0.3),
        (0.3, 0.25, 0.3),
        (0.3, 0.24, 0.6),
        (0.3, math.nan, 0.6),
        (SMALLEST, 1.0, SMALLEST),
        (1e-15, 1.0, 1e-15),
        (LARGEST, -1.0, LARGEST),
        (1e15, math.nan, 1e15),
    ],
)
def test_levenberg_and_marquardt_s_rule_stays_within_bounds(damping: float, ratio: float, expected: float) -> None:
    assert adapted(damping, ratio, 2 / 3, 2) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("loss", "new_loss", "predicted"),
    [
        (1.0, math.nan, 1.0),
        (1.0, math.inf, 1.0),
        (1.0, -math.inf, 1.0),
        (1.0, 0.5, math.nan),
        (1.0, 0.5, math.inf),
        (1.0, 0.5, 0.0),
        (1.0, 0.5, -1.0),
    ],
)
def test_what_cannot_be_compared_is_not_accepted(loss: float, new_loss: float, predicted: float) -> None:
    assert math.isnan(reduction_ratio(loss, new_loss, predicted))
    assert not is_acceptable(loss, new_loss, predicted, 0.0)


def test_damping_falls_where_the_model_was_trusted_and_rises_where_it_was_not() -> None:
    start = Damping(1.0)
    assert start.after_acceptance(0.76).value == 1 / 3
    assert start.after_acceptance(0.75) == start
    assert start.after_acceptance(math.nan) == start
    assert start.after_rejection(0.3).value > 1.0


@given(loss=st.floats(-2, 2), slope=st.floats(0.1, 2), bend=st.floats(0.1, 50), factor=st.floats(1, 8))
def test_after_a_rejection_the_damping_follows_the_parabola_through_what_was_tried(
    loss: float, slope: float, bend: float, factor: float
) -> None:
    def tried(length: float) -> float:
        return loss - slope * length + bend * length**2

    ratio = (loss - tried(1.0)) / (slope / 2)  # the model of a Newton step predicts half of slope times length
    shorter = Damping(1.0).after_rejection(ratio).value
    assert shorter == pytest.approx(min(max(2 * bend / slope, 2.0), 4.0))
    assert Damping(1.0).after_rejection(ratio, factor).value == pytest.approx(factor * shorter)


def test_a_loss_that_is_not_finite_raises_the_damping_as_far_as_a_rejection_can() -> None:
    assert Damping(1.0).after_rejection(math.nan) == Damping(1.0).after_rejection(-1e30)


def test_inflation_shrinks_where_the_bound_was_loose_and_comes_back_on_rejection() -> None:
    assert Damping(1.0).after_acceptance(1.11).inflation_share == 0.8
    assert Damping(1.0).after_acceptance(1.1).inflation_share == 1.0
    assert Damping(1.0, least_share=1.0).after_acceptance(1.2).inflation_share == 1.0
    assert Damping(1.0, inflation_share=0.4).after_rejection(0.3).inflation_share == 0.5
    assert Damping(1.0, inflation_share=0.9).after_rejection(0.3).inflation_share == 1.0


def test_a_bolder_candidate_that_wins_again_and_again_leaves_some_damping() -> None:
    damping = Damping(1e-3)
    for _ in range(400):
        damping = damping.candidate(0.1).after_acceptance(0.5)
    assert damping.value == SMALLEST
    assert Damping(LARGEST).candidate(3.0).value == LARGEST
    assert Damping(0.0).candidate(0.1).value == 0


def test_a_damping_above_the_largest_is_not_lowered() -> None:
    assert Damping(1e13).candidate(1.0).value == Damping(1e13).after_rejection(0.0).value == 1e13


@pytest.mark.parametrize("value", [0.0, 1e-14, SMALLEST])
def test_a_good_step_raises_no_damping(value: float) -> None:
    assert Damping(value).after_acceptance(1.0).value == value


def test_a_bolder_candidate_has_less_inflation_by_the_fourth_root() -> None:
    assert Damping(1.0).candidate(1 / 16).inflation_share == 0.5
    assert Damping(1.0, least_share=1.0).candidate(1 / 16).inflation_share == 1.0


@given(value=st.floats(SMALLEST, LARGEST), rounds=st.sampled_from([0, 1, 10, 3000]), good=st.booleans())
def test_values_stay_in_range(value: float, rounds: int, good: bool) -> None:
    damping = Damping(value)
    for _ in range(rounds):
        damping = damping.after_acceptance(1.2) if good else damping.after_rejection(-1.0)
    assert SMALLEST <= damping.value <= LARGEST
    assert 0 < damping.inflation_share <= 1
