import json
from typing import Any

import pytest

from surmin.experiments.traces.chrome_trace import from_chrome_trace, to_chrome_trace
from surmin.experiments.traces.timeline import Timeline
from surmin.pipeline.tracing import Span
from tests.pipeline.spans import gradient_step, row, surrogate_round

EVENT: dict[str, Any] = {"name": "F3", "cat": "sm", "ph": "X", "pid": 1, "tid": 0, "ts": 2.5, "dur": 1, "args": {}}


def test_the_events() -> None:
    timeline = Timeline((Span("F", 1, 5_000, 7_500, 3, 2, thread=4), Span("U", 0, 6_001, 6_002)))
    assert to_chrome_trace({"sm": timeline}) == {
        "displayTimeUnit": "ms",
        "traceEvents": [
            {"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": "worker 0"}},
            {"name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": "worker 1"}},
            {"name": "F3", "cat": "sm", "ph": "X", "pid": 1, "tid": 4, "ts": 0.0, "dur": 2.5, "args": {"stage": 2}},
            {"name": "U", "cat": "sm", "ph": "X", "pid": 0, "tid": 0, "ts": 1.001, "dur": 0.001, "args": {}},
        ],
    }


def test_what_is_written_is_read() -> None:
    later = Timeline.merge([row(0, "F|FA", start=20, stage=0), row(1, "WFFU", start=21, stage=1)])
    runs = {"gpipe": gradient_step(), "sm": surrogate_round(), "later": later}
    assert from_chrome_trace(json.loads(json.dumps(to_chrome_trace(runs)))) == runs


def test_times_are_kept_to_the_nanosecond_after_months_of_uptime() -> None:
    start = 10_000_000_000_000_000
    timeline = Timeline((Span("F", 0, start, start + 1), Span("B", 0, start + 60_000_000_001, start + 60_000_000_002)))
    times = [(span.start, span.end) for span in from_chrome_trace(to_chrome_trace({"sm": timeline}))["sm"].spans]
    assert times == [(0, 1), (60_000_000_001, 60_000_000_002)]


@pytest.mark.parametrize(
    "document, complaint",
    [
        ([], "no list of traceEvents"),
        ({"traceEvents": 3}, "no list of traceEvents"),
        ({"traceEvents": []}, "no spans in it"),
        ({"traceEvents": [EVENT, 3]}, "event 1 is no table"),
    ],
)
def test_a_foreign_document_is_refused(document: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        from_chrome_trace(document)


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"name": "G3"}, "'G3' is no span of surmin"),
        ({"name": "F-3"}, "'F-3' is no span of surmin"),
        ({"name": "Forward"}, "'Forward' is no span of surmin"),
        ({"name": 3}, "name must be a text, got 3"),
        ({"cat": None}, "cat must be a text, got None"),
        ({"ph": "B"}, "'F3' is no span of surmin"),
        ({"pid": -1}, "pid must be a whole number from 0 up, got -1"),
        ({"pid": True}, "pid must be a whole number from 0 up, got True"),
        ({"tid": "main"}, "tid must be a whole number from 0 up, got 'main'"),
        ({"ts": float("nan")}, "ts must be a time in µs from 0 up, got nan"),
        ({"dur": -1}, "dur must be a time in µs from 0 up, got -1"),
        ({"dur": "1"}, "dur must be a time in µs from 0 up, got '1'"),
        ({"args": []}, "args is no table"),
        ({"args": {"stage": 1.5}}, "stage must be a whole number from 0 up, got 1.5"),
    ],
)
def test_a_foreign_event_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^event 1: {complaint}$"):
        from_chrome_trace({"traceEvents": [EVENT, EVENT | change]})
