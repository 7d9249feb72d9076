"""What a message costs, found again from processor times that were made of known costs."""

import pytest

from benchmarks.links.modelled import Modelled, fit_messages
from benchmarks.links.racer import Task
from surmin.simulation.operations import NO_OVERHEADS, Overheads
from surmin.simulation.team import Recorded
from tests.simulation.waves import gradient_step

OURS, TORCHS = Overheads(message=3e-4, byte=2e-9), Overheads(message=7e-4, byte=2e-9)


def task(schedule: str, size: int, microbatches: int, work: float) -> Modelled:
    """Gradient steps of two workers, three equal rounds that all count."""
    programs = gradient_step([work, work], [work, work], microbatches, size)
    rounds = [Recorded(programs, (1, 1), 1.0, 0.5, number, 2 * microbatches, size) for number in range(3)]
    return Modelled(Task("sm", {}, microbatches, schedule, rounds=3), rounds, need=3)


TASKS = [task("posted", 1000, 2, 0.01), task("posted", 10**6, 3, 0.02), task("posted", 10**5, 8, 0.005)]
OTHERS = [task("gpipe", 1000, 4, 0.01), task("1f1b", 10**6, 2, 0.01)]


def test_processor_time_is_work_and_what_both_ends_of_messages_cost() -> None:
    own = TASKS[0]
    passes, messages = 2 * 2 * 2, 2 * 2
    assert own.processor(NO_OVERHEADS) == pytest.approx(passes * 0.01)
    both_ends = 2 * messages * (OURS.message + 1000 * OURS.byte)
    assert own.processor(OURS) == pytest.approx(passes * 0.01 + both_ends)


def test_known_costs_are_found_again() -> None:
    everything = [*TASKS, *OTHERS]
    taken = [own.processor(TORCHS if own.is_torchs else OURS) for own in everything]
    for own, found in zip(everything, fit_messages(everything, taken), strict=True):
        expected = TORCHS if own.is_torchs else OURS
        assert (found.message, found.byte) == pytest.approx((expected.message, expected.byte), rel=1e-6)


def test_no_cost_is_below_zero() -> None:
    less_than_work = [0.9 * own.processor(NO_OVERHEADS) for own in TASKS]
    assert all((found.message, found.byte) == (0, 0) for found in fit_messages(TASKS, less_than_work))
