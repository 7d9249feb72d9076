"""What a race found, out of what two workers answered."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.links.entries import Entry, Need, read_answers
from benchmarks.links.racer import Task
from benchmarks.problems import Problem

ONE: dict[str, Any] = {
    "ends": [1.0, 2.0, 4.0], "losses": [0.5, 9e-3, 1e-3], "bytes": [1e6, 2e6, 3e6], "waves": [2, 3, 5],
    "processor": [1.0, 2.0, 3.0],
}  # fmt: skip
OTHER = {**ONE, "ends": [1.0, 3.0, 3.5], "bytes": [1e6, 3e6, 7e6], "processor": [2.0, 4.0, 9.0]}


def test_sm_counts_its_own_rounds_until_the_last_worker_has_ended_one() -> None:
    task = Task("sm", {"wire": "int8"}, 8, "posted", 9, 1e-3)
    setting = "posted, 8 micro-batches, wire int8"
    assert read_answers(task, [ONE, OTHER], {}) == Entry("sm", setting, 3.0, 4.0, 10.0, 3, 5, 4.0)


@pytest.mark.parametrize("losses", [[0.5, 9e-3, 2e-3], [0.5, 0.4, math.nan]])
def test_a_loss_that_was_not_reached_takes_for_ever(losses: list[float]) -> None:
    found = read_answers(Task("sm", {}, 8, "posted", 9), [{**own, "losses": losses} for own in (ONE, OTHER)], {})
    assert found == Entry("sm", "posted, 8 micro-batches", *[math.inf] * 6)


def test_adam_that_was_run_to_the_end_counts_its_own_rounds_too() -> None:
    found = read_answers(Task("adam", {}, 1, "gpipe", 3), [ONE, OTHER], {"adam": Need(2, 3, {})})
    assert found == Entry("adam", "gpipe, 1 micro-batches, run to the end", 3.0, 4.0, 10.0, 3, 5, 4.5)


def test_of_others_a_typical_wave_is_multiplied_and_the_first_round_left_out() -> None:
    """Rounds end after 1, 3 and 4 s, with 2, 1 and 2 waves: 2 and ½ s a wave in the last two, and 2 MB."""
    found = read_answers(Task("lbfgs", {}, 1, "posted", 3), [ONE, OTHER], {"lbfgs": Need(8, 40, {})})
    assert found == Entry("lbfgs", "posted, 1 micro-batches", 8 * 1.25, 40 * 1.25, 40 * 2.0, 40, 40, 4.5)


def test_mini_batches_need_rounds_of_their_own_and_are_never_run_to_the_end() -> None:
    needs = {"adam": Need(2, 3, {}), "adam 50": Need(1, 2, {})}
    found = read_answers(Task("adam", {}, 4, "1f1b", 3, batch=50), [ONE, OTHER], needs)
    assert found == Entry("adam", "1f1b, batches of 50, 4 micro-batches", 1.25, 2 * 1.25, 2 * 2.0, 2, 2, 4.5)


def test_every_worker_of_a_task_has_the_same_mini_batches_and_the_next_pass_another_order() -> None:
    inputs = torch.arange(6.0)[:, None]
    problem = Problem("numbers", inputs, torch.arange(6), lambda: nn.Sequential(nn.Linear(1, 6)))
    rounds = Task("adam", {}, 1, "posted", 4, batch=3).data(problem)
    again = Task("adam", {}, 1, "posted", 4, batch=3).data(problem)
    passes = [torch.cat([targets for _, targets in own]).tolist() for own in (rounds[:2], rounds[2:])]
    assert [own.tolist() for own, _ in rounds] == [own.tolist() for own, _ in again]
    assert [sorted(own) for own in passes] == [list(range(6))] * 2
    assert passes[0] != passes[1]
    assert len(Task("sm", {}, 1, "posted", 4).data(problem)) == 4
