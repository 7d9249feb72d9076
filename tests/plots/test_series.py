import math
from dataclasses import replace

import numpy as np
import pytest

from surmin.experiments.comparisons.results import Spread
from surmin.experiments.runs.metrics import Row
from surmin.plots.series import AXES, accuracy_curve, loss_curve, visible_axes
from tests.plots.cases import make_rows

ROUNDS, SECONDS, _, BYTES, *_ = AXES


def test_median_and_range_at_every_round() -> None:
    curve = loss_curve("sm", [make_rows([4, 1]), make_rows([4, 2]), make_rows([4, 3])], ROUNDS)
    assert curve.x.tolist() == [0, 1]
    np.testing.assert_allclose([curve.low, curve.median, curve.high], [[4, 1], [4, 2], [4, 3]])
    assert (curve.runs, curve.ends) == (3, [])


def test_a_run_that_has_stopped_counts_with_its_last_loss() -> None:
    curve = loss_curve("sm", [make_rows([4, 1]), make_rows([4, 3, 2, 0.5])], ROUNDS)
    assert curve.x.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose([curve.low, curve.high], [[4, 1, 1, 0.5], [4, 3, 2, 1]])


def test_the_median_ends_where_most_runs_have_stopped() -> None:
    runs = [make_rows([4] * count) for count in (2, 5, 3, 4)]
    assert [loss_curve("sm", runs[:count], ROUNDS).end[0] for count in (1, 2, 3, 4)] == [1, 4, 2, 3]


def test_a_run_that_diverged_never_comes_to_where_the_others_stop() -> None:
    curve = loss_curve("sm", [make_rows([4, 9, None]), make_rows([4, 3, 1]), make_rows([4, 3, 2, 1])], ROUNDS)
    assert curve.end == (3, 1) and curve.high.tolist() == [4, 9, 9, 9]


def test_the_median_is_the_tables() -> None:
    runs = [make_rows([4, 1e-6]), make_rows([4, 0.1])]
    assert loss_curve("sm", runs, ROUNDS).end[1] == Spread.of("loss", [rows[-1] for rows in runs]).median


def test_between_rows_a_run_has_what_the_last_one_had() -> None:
    slow, fast = make_rows([1, 1e-4], seconds=2.0), make_rows([1, 1e-2], seconds=1.0)
    curve = loss_curve("sm", [slow, fast], SECONDS)
    assert curve.x.tolist() == [0, 1, 2]
    np.testing.assert_allclose([curve.low, curve.high], [[1, 1e-2, 1e-4], [1, 1, 1e-2]])


def test_of_rows_at_one_place_the_last_counts() -> None:
    free = [replace(row, seconds=0.0) for row in make_rows([4, 2, 1])]
    assert loss_curve("sm", [free], SECONDS).median.tolist() == [1]


def test_accuracies_are_in_per_cent() -> None:
    shares = [{0: 0.1, 2: 0.9}, {0: 0.2, 1: 0.4, 2: 0.8}, {0: 0.3, 1: 0.2, 2: 0.6}]
    runs = [[Row(number, 1.0, share) for number, share in own.items()] for own in shares]
    curve = accuracy_curve("sm", runs, ROUNDS)
    assert curve.x.tolist() == [0, 1, 2]
    np.testing.assert_allclose([curve.low, curve.median, curve.high], [[10, 10, 60], [20, 20, 80], [30, 40, 90]])


def test_units() -> None:
    assert loss_curve("sm", [make_rows([2, 1])], BYTES).x.tolist() == [0, 3]


def test_where_runs_diverged() -> None:
    curve = loss_curve("gd", [make_rows([2, 8, None]), make_rows([2, 1, 1])], ROUNDS)
    assert curve.ends == [(1.0, pytest.approx(8))]
    assert np.isfinite(curve.high).all()


def test_a_run_that_failed_before_its_first_row_leaves_the_others_to_be_seen() -> None:
    failed = [Row(-1, None, None).lost()]
    for make in (loss_curve, accuracy_curve):
        others = [make_rows([4, 1]), make_rows([4, 3])]
        alone, curve = make("sm", others, ROUNDS), make("sm", [others[0], failed, others[1]], ROUNDS)
        np.testing.assert_array_equal([curve.low, curve.median, curve.high], [alone.low, alone.median, alone.high])
        assert np.isfinite(curve.median).all() and (curve.runs, curve.ends) == (2, [])


def test_losses_that_cannot_be_drawn() -> None:
    assert loss_curve("sm", [make_rows([1, 0.0])], ROUNDS).median[-1] == pytest.approx(1e-30)
    assert math.isnan(loss_curve("sm", [make_rows([None])], ROUNDS).median[0])


def test_axes_with_nothing_to_see_are_left_out() -> None:
    silent = [Row(0, 2.0, 0.1), Row(1, 1.0, 0.1, seconds=1.0, gradient_equivalents=1.0, forward_waves=1)]
    assert [axis.name for axis in visible_axes([silent])] == [
        "rounds",
        "seconds",
        "gradient-equivalents",
        "forward-waves",
    ]
    assert [axis.name for axis in visible_axes([silent[:1]])] == ["rounds"]
