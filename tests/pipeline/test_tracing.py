import threading
from collections.abc import Iterator
from itertools import count

import pytest
import torch

from surmin.pipeline.tracing import NULL_TRACER, Span, SpanRecorder, Tracer, synchronized_clock


@pytest.fixture
def recorder() -> SpanRecorder:
    """Of worker 3; its clock shows 10, 20, … one reading after the other."""
    readings: Iterator[int] = count(10, 10)
    return SpanRecorder(3, clock=lambda: next(readings))


def test_spans_are_recorded_as_they_end(recorder: SpanRecorder) -> None:
    with recorder.span("F", microbatch=1), recorder.span("W"):
        pass
    with recorder.span("U"):
        pass
    assert recorder.take() == [Span("W", 3, 20, 30), Span("F", 3, 10, 40, 1), Span("U", 3, 50, 60)]


def test_taken_spans_are_forgotten(recorder: SpanRecorder) -> None:
    with recorder.span("F"):
        pass
    assert len(recorder.take()) == 1
    assert recorder.take() == []


def test_an_exception_goes_through_and_its_span_is_kept(recorder: SpanRecorder) -> None:
    with pytest.raises(RuntimeError, match="lost"), recorder.span("W"):
        raise RuntimeError("lost")
    assert recorder.take() == [Span("W", 3, 10, 20)]


def test_an_open_span_is_taken_when_it_has_ended(recorder: SpanRecorder) -> None:
    with recorder.span("A"):
        assert recorder.take() == []
    assert recorder.take() == [Span("A", 3, 10, 20)]


def test_threads_are_numbered(recorder: SpanRecorder) -> None:
    def work() -> None:
        with recorder.span("C"):
            pass

    work()
    other = threading.Thread(target=work)
    other.start()
    other.join()
    work()
    assert [span.thread for span in recorder.take()] == [0, 1, 0]


def test_times_are_counted_from_the_origin() -> None:
    readings = iter([1007, 1012])
    recorder = SpanRecorder(0, clock=lambda: next(readings), origin=1000)
    with recorder.span("B"):
        pass
    assert recorder.take() == [Span("B", 0, 7, 12)]


def test_tracing_is_transparent_to_what_is_traced() -> None:
    tracers: list[Tracer] = [NULL_TRACER, SpanRecorder(0)]
    for tracer in tracers:
        with pytest.raises(KeyError), tracer.span("F", microbatch=0), tracer.span("W"):
            raise KeyError


def test_the_clock_of_a_device_waits_for_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    assert 0 <= synchronized_clock(torch.device("cpu"))() <= synchronized_clock(torch.device("cuda:1"))()
    assert waited == [torch.device("cuda:1")]
