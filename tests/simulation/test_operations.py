"""What messages cost the workers themselves, at their two ends."""

import pytest

from surmin.pipeline.comparison import STATUS_BYTES
from surmin.simulation.operations import Hear, Overheads, Program, Receive, Send, Tell, Work, expand


def seconds_of(program: Program, place: int, count: int = 4) -> float:
    """What the messages of the worker at this place, of so many, cost it: a second each, and a thousandth a byte."""
    programs: list[Program] = [program if own == place else [] for own in range(count)]
    expanded = expand(programs, Overheads(message=1.0, byte=0.001))[place]
    return sum(own.seconds for own in expanded if isinstance(own, Work))


@pytest.mark.parametrize("place", range(4))
def test_a_comparison_costs_a_message_for_each_that_is_told_and_each_that_is_heard(place: int) -> None:
    """Bytes are written by who sends; who receives is charged for them as they come."""
    assert seconds_of([Tell()], place) == pytest.approx(3 * (1.0 + 0.001 * STATUS_BYTES))
    assert seconds_of([Hear()], place) == 3.0
    assert seconds_of([Hear(1)], place) == place
    assert seconds_of([Hear(-1)], place) == 3 - place


def test_a_message_costs_its_bytes_where_it_is_sent() -> None:
    assert seconds_of([Send(1, "forward", 500)], 1) == 1.5
    assert seconds_of([Receive(-1, "forward", 500)], 1) == 1.0
