"""Hand-made spans; the unit of time is 1,000 ns, a µs in a Chrome trace."""

from surmin.experiments.traces.timeline import Timeline
from surmin.pipeline.tracing import LETTERS, Span

UNIT = 1000


def row(worker: int, text: str, *, start: int = 0) -> list[Span]:
    """What a worker did, a character a unit of time: "FF.U" is one F of two units, an idle one, and one U.

    Neighbours of the same letter belong to the same span unless "|", which takes no time, is between them.
    """
    spans: list[Span] = []
    now = start * UNIT
    fresh = True
    numbers = dict.fromkeys("FBC", 0)
    for mark in text:
        if mark == "|":
            fresh = True
            continue
        letter = next((known for known in LETTERS if known == mark), None)
        if letter is not None and not fresh and spans and spans[-1].letter == letter:
            spans[-1] = spans[-1]._replace(end=now + UNIT)
        elif letter is not None:
            microbatch = numbers.get(letter)
            if microbatch is not None:
                numbers[letter] = microbatch + 1
            spans.append(Span(letter, worker, now, now + UNIT, microbatch))
        fresh = letter is None
        now += UNIT
    return spans


def gradient_step() -> Timeline:
    """GPipe with 2 micro-batches on 2 workers: F takes 1 unit, B takes 2, messages none."""
    return Timeline.merge([row(0, "F|FWWWBB|BBU"), row(1, "WF|FBB|BBU")])


def surrogate_round() -> Timeline:
    """The same with curvature, a long local phase, and acceptance."""
    return Timeline.merge([row(0, "F|FWWWBB|BBC|CUUUUUAA"), row(1, "WF|FBB|BBC|C..UUUUAAA")])


def communication_in_local_phase(timeline: Timeline) -> list[tuple[Span, Span]]:
    """Every U span with every A or W span of the same worker that overlaps it: SM's promise is that there is none.

    A message that nobody waits for has no span and is not seen here.
    """
    updates = [span for span in timeline.spans if span.letter == "U"]
    return [
        (update, span)
        for update in updates
        for span in timeline.spans
        if span.letter in "AW" and span.worker == update.worker
        and span.start < update.end and update.start < span.end
    ]  # fmt: skip
