import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surmin.damping import ACCEPT_ABOVE, LARGEST, SMALLEST, Damping, is_acceptable, reduction_ratio


@given(loss=st.floats(-10, 10), change=st.floats(-5, 5), predicted=st.floats(1e-6, 5))
def test_a_step_is_accepted_when_the_loss_fell_by_a_fair_part(loss: float, change: float, predicted: float) -> None:
    new_loss = loss - change
    ratio = (loss - new_loss) / predicted
    assert reduction_ratio(loss, new_loss, predicted) == ratio
    assert is_acceptable(loss, new_loss, predicted) == (new_loss < loss and ratio > ACCEPT_ABOVE)


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
    assert not is_acceptable(loss, new_loss, predicted)


def test_damping_falls_where_the_model_was_trusted_and_rises_where_it_was_not() -> None:
    start = Damping(1.0)
    assert start.after_acceptance(0.8, tighten=True).value < 1.0
    assert start.after_acceptance(0.5, tighten=True) == start
    assert start.after_acceptance(math.nan, tighten=True) == start
    assert start.after_rejection().value > 1.0


def test_inflation_shrinks_where_the_bound_was_loose_and_comes_back_on_rejection() -> None:
    loose = Damping(1.0).after_acceptance(1.2, tighten=True)
    assert loose.inflation_share < 1.0
    assert Damping(1.0).after_acceptance(1.2, tighten=False).inflation_share == 1.0
    assert Damping(1.0).after_acceptance(1.0, tighten=True).inflation_share == 1.0
    back = loose.after_rejection()
    assert loose.inflation_share < back.inflation_share <= 1.0
    assert Damping(1.0).after_rejection().inflation_share == 1.0


@given(value=st.floats(SMALLEST, LARGEST), rounds=st.sampled_from([0, 1, 10, 3000]), good=st.booleans())
def test_values_stay_in_range(value: float, rounds: int, good: bool) -> None:
    damping = Damping(value)
    for _ in range(rounds):
        damping = damping.after_acceptance(1.2, tighten=True) if good else damping.after_rejection()
    assert SMALLEST <= damping.value <= LARGEST
    assert 0 < damping.inflation_share <= 1
