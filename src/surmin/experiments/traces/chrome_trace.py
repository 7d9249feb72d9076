"""Timelines in the Chrome trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A span is a complete event: its name is the letter and the micro-batch ("F3", "U"), `pid` the worker, `tid` the thread,
`cat` the run, `ts` and `dur` in µs from the start of the first run.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from surmin.experiments.traces.timeline import Timeline
from surmin.pipeline.tracing import LETTERS, Letter, Span

NAME = re.compile(rf"([{''.join(LETTERS)}])([0-9]+)?", re.ASCII)


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


def from_chrome_trace(document: Any) -> dict[str, Timeline]:
    """The runs in a document that `to_chrome_trace` made, to the nanosecond.

    Raises:
        ValueError: for any other, saying what is wrong with it.
    """
    events = document.get("traceEvents") if isinstance(document, dict) else None
    if not isinstance(events, list):
        raise ValueError("no list of traceEvents in it")
    runs: dict[str, list[Span]] = defaultdict(list)
    for number, event in enumerate(events):
        if not isinstance(event, dict):
            raise ValueError(f"event {number} is no table")
        if event.get("ph") == "M":
            continue
        try:
            runs[_text(event, "cat")].append(_to_span(event))
        except ValueError as error:
            raise ValueError(f"event {number}: {error}") from error
    if not runs:
        raise ValueError("no spans in it")
    return {run: Timeline.merge([spans]) for run, spans in runs.items()}


def _to_event(run: str, span: Span, origin: int) -> dict[str, Any]:
    return {
        "name": span.letter + ("" if span.microbatch is None else str(span.microbatch)),
        "cat": run,
        "ph": "X",
        "pid": span.worker,
        "tid": span.thread,
        "ts": (span.start - origin) / 1000,
        "dur": (span.end - span.start) / 1000,
        "args": {} if span.stage is None else {"stage": span.stage},
    }


def _to_span(event: Mapping[str, Any]) -> Span:
    name = _text(event, "name")
    parts = NAME.fullmatch(name)
    if event.get("ph") != "X" or parts is None:
        raise ValueError(f"{name!r} is no span of surmin")
    letter: Letter = next(known for known in LETTERS if known == parts[1])
    start = _nanoseconds(event, "ts")
    arguments = event.get("args", {})
    if not isinstance(arguments, dict):
        raise ValueError("args is no table")
    return Span(
        letter, _number(event, "pid"), start, start + _nanoseconds(event, "dur"),
        None if parts[2] is None else int(parts[2]),
        _number(arguments, "stage") if "stage" in arguments else None, _number(event, "tid"),
    )  # fmt: skip


def _text(event: Mapping[str, Any], key: str) -> str:
    value = event.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a text, got {value!r}")
    return value


def _number(table: Mapping[str, Any], key: str) -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} must be a whole number from 0 up, got {value!r}")
    return value


def _nanoseconds(event: Mapping[str, Any], key: str) -> int:
    value = event.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{key} must be a time in µs from 0 up, got {value!r}")
    return round(1000 * value)
