"""How fast a machine was and what a message cost it, found again from processor times made of known ones."""

from dataclasses import astuple, replace

import pytest

from benchmarks.links.modelled import Machine, Modelled, fit_machine
from benchmarks.links.racer import Task
from surmin.simulation.operations import NO_OVERHEADS, Overheads, Tell
from surmin.simulation.seconds import Setting
from surmin.simulation.team import Recorded
from surmin.simulation.wires import LinkKind
from tests.simulation.waves import gradient_step

OURS, TORCHS = Overheads(message=3e-4, byte=2e-9), Overheads(message=7e-4, byte=2e-9)


def task(schedule: str, size: int, microbatches: int, work: float) -> Modelled:
    """Gradient steps of two workers, three equal rounds that all count."""
    programs = gradient_step([work, work], [work, work], microbatches, size)
    rounds = [Recorded(programs, (1, 1), 1.0, 0.5, number, 2 * microbatches, size) for number in range(3)]
    return Modelled(Task("sm", {}, microbatches, schedule, rounds=3), rounds)


def with_comparison(own: Recorded) -> Recorded:
    """Torch's schedules wait for it to be over."""
    return replace(own, programs=[[Tell(), *program] for program in own.programs])


TASKS = [task("posted", 1000, 2, 0.01), task("posted", 10**6, 3, 0.02), task("posted", 10**5, 8, 0.005)]
OTHERS = [task("gpipe", 1000, 4, 0.01), task("1f1b", 10**6, 2, 0.01)]


def test_processor_time_is_work_and_what_both_ends_of_messages_cost() -> None:
    own = TASKS[0]
    passes, messages = 2 * 2 * 2, 2 * 2
    assert own.processor(NO_OVERHEADS) == pytest.approx(passes * 0.01)
    both_ends = 2 * messages * (OURS.message + 1000 * OURS.byte)
    assert own.processor(OURS) == pytest.approx(passes * 0.01 + both_ends)


MACHINE = Machine(1.3, OURS.message, TORCHS.message, OURS.byte)
EVERYTHING = [*TASKS, *OTHERS]


def test_a_known_machine_is_found_again() -> None:
    taken = [own.slowed(MACHINE.slowness).processor(MACHINE.overheads(own)) for own in EVERYTHING]
    assert astuple(fit_machine(EVERYTHING, taken)) == pytest.approx(astuple(MACHINE), rel=1e-6)


def test_nothing_is_below_zero() -> None:
    less_than_work = [0.9 * own.processor(NO_OVERHEADS) for own in EVERYTHING]
    assert astuple(fit_machine(EVERYTHING, less_than_work)) == pytest.approx((0.9, 0, 0, 0), abs=1e-9)


def test_seconds_are_those_of_slower_work_and_of_messages() -> None:
    setting = Setting(LinkKind(0.0, 1e15))
    for plain in EVERYTHING:
        own = replace(plain, rounds=[with_comparison(one) for one in plain.rounds])
        at_once = own.seconds(setting, 3)
        assert Machine(2.0, 0.0, 0.0, 0.0).seconds(own, setting, 3) == pytest.approx(2 * at_once, rel=1e-6)
        with_messages = own.seconds(replace(setting, overheads=MACHINE.overheads(own)), 3)
        assert replace(MACHINE, slowness=1.0).seconds(own, setting, 3) == with_messages > at_once
