"""Recorded gradient steps in the order of other schedules."""

import pytest

from surmin.simulation.operations import Flush, Hear, Overheads, Post, Program, Receive, Send, Tell, Work, expand
from surmin.simulation.schedules import reorder
from surmin.simulation.timing import replay
from surmin.simulation.wires import LinkKind
from tests.simulation.waves import gradient_step, reorder_all

NO_LINKS = LinkKind(0.0, 1e18)
ALL = ("gpipe", "1f1b", "zero-bubble")


def seconds(programs: list[Program]) -> float:
    return float(max(replay(expand(programs, Overheads()), NO_LINKS)))


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_work_and_the_messages_stay(schedule: str, workers: int) -> None:
    programs = gradient_step([0.1 + place for place in range(workers)], [0.7] * workers, 5, 100, 0.3)
    for before, after in zip(programs, reorder(programs, schedule), strict=True):
        assert sum(own.seconds for own in after if isinstance(own, Work)) == pytest.approx(
            sum(own.seconds for own in before if isinstance(own, Work))
        )
        for kind in (Send, Receive):
            moved, kept = ([own[:3] for own in program if isinstance(own, kind)] for program in (after, before))
            assert sorted(moved) == sorted(kept)
        late = 0 if schedule == "zero-bubble" else len([own for own in after if isinstance(own, Send)])
        assert len([own for own in after if isinstance(own, Flush)]) == late
        posts = 0 if schedule == "zero-bubble" else len([own for own in after if isinstance(own, Receive)])
        assert len([own for own in after if isinstance(own, Post)]) == posts


@pytest.mark.parametrize("schedule", ALL)
def test_what_belongs_to_no_micro_batch_stays_and_all_is_heard_before_the_step_begins(schedule: str) -> None:
    recorded = [
        [Tell(), Work(0.5), Hear(step), *own]
        for step, own in zip((-1, 1), gradient_step([1.0, 2.0], [3.0, 4.0], 2, 8), strict=True)
    ]
    recorded[1].insert(recorded[1].index(Receive(-1, "forward", 8)) + 1, Work(0.25))
    for before, after in zip(recorded, reorder(recorded, schedule), strict=True):
        assert sum(own.seconds for own in after if isinstance(own, Work)) == pytest.approx(
            sum(own.seconds for own in before if isinstance(own, Work))
        )
        assert [own for own in after if isinstance(own, Tell | Hear)] == [Tell(), Hear()]
        begins = next(number for number, own in enumerate(after) if isinstance(own, Send | Receive | Post))
        assert after.index(Hear()) < begins


@pytest.mark.parametrize("workers", [2, 4, 6])
@pytest.mark.parametrize("microbatches", [6, 12])
def test_bubbles_without_links(workers: int, microbatches: int) -> None:
    """(M + K - 1) (f + b) for GPipe and 1F1B; for ZB-H1 with b = 2 f, (K - 1) f of the 3 (K - 1) f idle are left."""
    f, b = 1.0, 2.0
    programs = gradient_step([f] * workers, [b] * workers, microbatches, 100)
    for schedule in ("posted", "gpipe", "1f1b"):
        assert seconds(reorder_all(programs, schedule)) == pytest.approx((microbatches + workers - 1) * (f + b))
    assert seconds(reorder_all(programs, "zero-bubble")) == pytest.approx(microbatches * (f + b) + (workers - 1) * f)


def test_refusals() -> None:
    programs = gradient_step([1.0] * 4, [1.0] * 4, 3, 100)
    with pytest.raises(ValueError, match="unknown schedule 'dual'"):
        reorder(programs, "dual")
    with pytest.raises(ValueError, match="at least as many micro-batches as workers, got 3 for 4"):
        reorder(programs, "1f1b")
    with pytest.raises(ValueError, match="one forward and one backward wave"):
        reorder([[Work(1.0, "F", 0)], [Work(1.0, "U")]], "gpipe")
