from surmin.experiments.traces.chrome_trace import to_chrome_trace
from surmin.experiments.traces.timeline import Timeline
from surmin.pipeline.tracing import Span


def test_the_events() -> None:
    timeline = Timeline((Span("F", 1, 5_000, 7_500, 3, thread=4), Span("U", 0, 6_001, 6_002)))
    assert to_chrome_trace({"sm": timeline}) == {
        "displayTimeUnit": "ms",
        "traceEvents": [
            {"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": "worker 0"}},
            {"name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": "worker 1"}},
            {"name": "F3", "cat": "sm", "ph": "X", "pid": 1, "tid": 4, "ts": 0.0, "dur": 2.5},
            {"name": "U", "cat": "sm", "ph": "X", "pid": 0, "tid": 0, "ts": 1.001, "dur": 0.001},
        ],
    }


def test_times_are_kept_to_the_nanosecond_after_months_of_uptime() -> None:
    start = 10_000_000_000_000_000
    timeline = Timeline((Span("F", 0, start, start + 1), Span("B", 0, start + 60_000_000_001, start + 60_000_000_002)))
    events = [event for event in to_chrome_trace({"sm": timeline})["traceEvents"] if event["ph"] == "X"]
    assert [(event["ts"], event["dur"]) for event in events] == [(0, 0.001), (60_000_000.001, 0.001)]
