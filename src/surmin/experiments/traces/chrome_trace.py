"""Timelines in the Chrome trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A span is a complete event: its name is the letter and the micro-batch ("F3", "U"), `pid` the worker, `tid` the thread,
`cat` the run, `ts` and `dur` in µs from the start of the first run.
"""

from collections.abc import Mapping
from typing import Any

from surmin.experiments.traces.timeline import Timeline
from surmin.pipeline.tracing import Span


def to_chrome_trace(runs: Mapping[str, Timeline]) -> dict[str, Any]:
    """The document, ready to be written as JSON: one or more runs of the same workers under short names."""
    start = min(timeline.start for timeline in runs.values())
    workers = max(timeline.workers for timeline in runs.values())
    names = [
        {"name": "process_name", "ph": "M", "pid": worker, "tid": 0, "args": {"name": f"worker {worker}"}}
        for worker in range(workers)
    ]
    events = [_to_event(run, span, start) for run, timeline in runs.items() for span in timeline.spans]
    return {"displayTimeUnit": "ms", "traceEvents": [*names, *events]}


def _to_event(run: str, span: Span, origin: int) -> dict[str, Any]:
    return {
        "name": span.letter + ("" if span.microbatch is None else str(span.microbatch)),
        "cat": run,
        "ph": "X",
        "pid": span.worker,
        "tid": span.thread,
        "ts": (span.start - origin) / 1000,
        "dur": (span.end - span.start) / 1000,
    }
