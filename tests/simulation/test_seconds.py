"""Rounds of a kind, how long they take one after the other, and on many workers."""

import math
import random

import numpy as np
import pytest

from surmin.simulation.operations import Overheads, Program, Receive, Send, Tell, Total, Work
from surmin.simulation.schedules import reorder
from surmin.simulation.seconds import RoundKind, Setting, group, on_many_workers
from surmin.simulation.team import Recorded
from surmin.simulation.wires import LinkKind
from tests.simulation.waves import gradient_step

SIZE = 5_000


def kind_of(seed: int, microbatches: int, workers: int = 4) -> RoundKind:
    draw = random.Random(seed)
    forward, backward = ([draw.uniform(0.001, 0.02) for _ in range(workers)] for _ in range(2))
    programs = gradient_step(forward, backward, microbatches, SIZE, draw.uniform(0, 0.05))
    return RoundKind([[Tell(), *program, Total(16)] for program in programs], 1)


@pytest.mark.parametrize("schedule", ["posted", "gpipe", "zero-bubble"])
@pytest.mark.parametrize("microbatches", [1, 4, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("workers", [61, 88])
def test_a_line_says_what_every_worker_would(schedule: str, microbatches: int, workers: int) -> None:
    kinds = [kind_of(seed, microbatches) for seed in range(2)]
    for links in (LinkKind(1e-4, 1e9), LinkKind(0.05, 2e7)):
        setting = Setting(links, Overheads(3e-5, 3e-10))
        direct = setting.seconds([kind.stretched(workers).scheduled(schedule) for kind in kinds])
        assert float(on_many_workers(setting, kinds, workers, schedule, microbatches)) == pytest.approx(
            float(direct), rel=1e-9
        )


def test_rounds_take_as_long_as_right_after_another() -> None:
    """With one micro-batch nobody begins the next step before the first worker has ended this one."""
    forward, backward, links = [0.3, 0.2], [0.1, 0.4], LinkKind(0.05, 1e15)
    kind = RoundKind(gradient_step(forward, backward, 1, 8), 3)
    assert float(Setting(links).seconds([kind])) == pytest.approx(3 * (0.3 + 0.2 + 0.1 + 0.4 + 2 * 0.05))


def test_stretching_repeats_those_in_the_middle() -> None:
    programs: list[Program] = [[Work(float(place))] for place in range(4)]
    stretched = RoundKind(programs, 1).stretched(8).programs
    assert [own.seconds for program in stretched for own in program if isinstance(own, Work)] == [
        0, 1, 1, 1, 2, 2, 2, 3,
    ]  # fmt: skip
    for count, workers in ((2, 8), (4, 3)):
        with pytest.raises(ValueError, match="cannot be stretched"):
            RoundKind(programs[:count], 1).stretched(workers)


def recorded(program: Program, work: int = 1) -> Recorded:
    return Recorded([program], (work,), math.nan, math.nan, 0, 0, 0)


def test_grouping_takes_the_median_of_rounds_of_the_same_operations() -> None:
    short = [recorded([Work(seconds), Total(8)]) for seconds in (1.0, 5.0, 2.0)]
    kinds = group([*short, recorded([Work(1.0), Total(8), Total(8)])])
    assert [(kind.count, kind.programs[0][0]) for kind in kinds] == [(3, Work(2.0)), (1, Work(1.0))]


def test_rounds_that_do_more_of_the_same_are_of_another_kind() -> None:
    """A stage whose inner steps end early sends and receives as in every other round."""
    kinds = group([recorded([Work(seconds), Total(8)], int(seconds)) for seconds in (1.0, 4.0, 1.0)])
    assert [(kind.count, kind.programs[0][0]) for kind in kinds] == [(2, Work(1.0)), (1, Work(4.0))]


def test_shared_cores_and_several_kinds_of_links() -> None:
    kind = kind_of(1, 4)
    links = [LinkKind(1e-4, 1e9), LinkKind(0.05, 1e8)]
    both = Setting(LinkKind.all_of(links)).seconds([kind])
    late = RoundKind(reorder(kind_without_total(kind), "gpipe"), 1)
    for schedule in (kind, late):
        both = Setting(LinkKind.all_of(links)).seconds([schedule])
        one_by_one = [float(Setting(own).seconds([schedule])) for own in links]
        assert np.asarray(both) == pytest.approx(one_by_one, rel=1e-12)
    alone = Setting(links[0]).seconds([kind])
    assert float(Setting(links[0], cores=4).seconds([kind])) == pytest.approx(float(alone), rel=1e-9)
    assert Setting(links[0], cores=1).seconds([kind]) > alone


def test_packets_cost_the_machine_that_all_workers_share() -> None:
    """Four packets of an eighth of a second take half a second of one of two cores, from both workers."""
    programs: list[Program] = [[Send(1, "forward", 100), Work(1.0)], [Receive(-1, "forward", 100), Work(1.0)]]
    assert Setting(LinkKind(0.0, 1e12), cores=2, packet=0.125).end(programs) == pytest.approx(1.25)


def kind_without_total(kind: RoundKind) -> list[Program]:
    return [[own for own in program if not isinstance(own, Total)] for program in kind.programs]
