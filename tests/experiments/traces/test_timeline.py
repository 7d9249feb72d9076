import random
from dataclasses import dataclass

import pytest

from surmin.experiments.runs.team import Alone
from surmin.experiments.traces.runs import common_origin
from surmin.experiments.traces.timeline import Timeline, theoretical_bubble
from surmin.pipeline.tracing import Letter, Span
from tests.pipeline.spans import UNIT, communication_in_local_phase, gradient_step, row, surrogate_round


def test_spans_are_merged_in_the_order_they_began() -> None:
    timeline = Timeline.merge([row(0, "..F", start=5), row(1, "FB", start=6)])
    assert [(span.worker, span.letter, span.start) for span in timeline.spans] == [
        (1, "F", 6000), (0, "F", 7000), (1, "B", 7000),
    ]  # fmt: skip
    assert (timeline.start, timeline.end, timeline.workers) == (6000, 8000, 2)


def test_a_timeline_without_spans_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one span"):
        Timeline.merge([[], []])


def test_utilisation_is_busy_time_over_the_whole_time() -> None:
    assert gradient_step().utilisation == (7 / 10, 7 / 10)
    assert surrogate_round().utilisation == (13 / 18, 12 / 18)


def test_a_worker_that_did_nothing_counts() -> None:
    timeline = Timeline.merge([row(0, "FF"), row(2, "F.")])
    assert timeline.utilisation == (1.0, 0.0, 0.5)
    assert timeline.bubble == pytest.approx(0.5)


def test_waiting_inside_work_is_not_work() -> None:
    timeline = Timeline.merge([row(0, "FFFF.BBBB") + row(0, "WWW", start=1) + row(0, "C", start=2)])
    assert timeline.utilisation == (6 / 9,)


def test_a_worker_is_busy_while_any_of_its_threads_is() -> None:
    helper = [span._replace(thread=1) for span in row(0, "CCC.W", start=1)]
    assert Timeline.merge([row(0, "FFWWWF"), helper]).utilisation == (5 / 6,)


@pytest.mark.parametrize("seed", range(20))
def test_of_overlapping_spans_the_last_begun_counts(seed: int) -> None:
    letters: tuple[Letter, ...] = ("F", "B", "C", "U", "A", "W")
    draw = random.Random(seed)
    spans = []
    for _ in range(12):
        start = draw.randrange(30)
        spans.append(Span(draw.choice(letters), 0, start, start + draw.randrange(15), draw.randrange(1000)))
    found = {time: piece for piece in Timeline(tuple(spans)).pieces for time in range(piece.start, piece.end)}
    assert len(found) == sum(piece.end - piece.start for piece in Timeline(tuple(spans)).pieces)
    for time in range(50):
        running = [span for span in spans if span.start <= time < span.end]
        last = max(running, key=lambda span: (span.start, -span.end, spans.index(span)), default=None)
        assert (time in found) == (last is not None)
        if last is not None:
            assert (found[time].letter, found[time].microbatch) == (last.letter, last.microbatch)


def test_the_ideal_pipeline_has_the_theoretical_bubble() -> None:
    ideal = Timeline.merge([row(0, "F|FWWWBB|BB"), row(1, "WF|FBB|BBWW")])
    assert ideal.bubble == pytest.approx(theoretical_bubble(2, 2)) == pytest.approx(1 / 3)
    assert theoretical_bubble(4, 4) == pytest.approx(3 / 7)
    assert theoretical_bubble(1, 8) == 0


@pytest.mark.parametrize(
    "rows, shared",
    [
        (["UUUU", "UUUU"], 1.0),
        (["UUUU....", "....UUUU"], 0.0),
        (["UUUU..", "..UUUU"], 2 / 6),
        (["UU|UU|U.", ".UUU|UU", "..U...."], 4 / 6),
        (["UU.UU", "UUWFU"], 3 / 4),
        (["FFFF", "FBCA"], 0.0),
    ],
)  # fmt: skip
def test_the_share_of_local_updates_that_run_together(rows: list[str], shared: float) -> None:
    timeline = Timeline.merge(row(worker, text) for worker, text in enumerate(rows))
    assert timeline.local_overlap == pytest.approx(shared)


def test_communication_in_a_local_phase_is_found() -> None:
    assert communication_in_local_phase(surrogate_round()) == []
    update, waiting, acceptance = Span("U", 1, 10, 20), Span("W", 1, 12, 13), Span("A", 1, 19, 30, thread=1)
    others = Span("W", 0, 12, 13), Span("W", 1, 0, 10), Span("F", 1, 12, 13), Span("A", 1, 20, 25)
    timeline = Timeline((update, waiting, acceptance, *others))
    assert communication_in_local_phase(timeline) == [(update, waiting), (update, acceptance)]


def test_a_moment_has_no_utilisation() -> None:
    assert Timeline((Span("F", 0, UNIT, UNIT),)).utilisation == (0.0,)


@dataclass(frozen=True)
class Placed(Alone):
    """A worker among others at these places on their machines."""

    places: tuple[str, ...] = ()

    def gather(self, text: str) -> list[str]:
        """What all say of their places."""
        return list(self.places)


@pytest.mark.parametrize(("places", "origin"), [(("0", "1"), 0), (("0", "0"), 7)])
def test_times_of_several_machines_count_from_a_common_moment(places: tuple[str, ...], origin: int) -> None:
    assert common_origin(Placed(count=2, places=places), lambda: 7) == origin
