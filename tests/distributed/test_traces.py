"""What every worker does in a round, and that nothing is sent while the local losses are minimised."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist

from surmin.experiments.traces.timeline import Timeline
from surmin.pipeline import channel
from surmin.pipeline.tracing import Span, SpanRecorder
from tests.distributed.settings import SAMPLES, Setting, make_method, running
from tests.distributed.workers import Workers
from tests.pipeline.spans import communication_in_local_phase

SETTING = Setting(workers=2, stages=4, microbatches=3)


def trace(setting: Setting) -> tuple[list[Span], list[int]]:
    """The spans of two rounds, and when something was sent or asked for, other than by torch's schedule."""
    moments: list[int] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            moments.append(time.perf_counter_ns())
            return function(*arguments, **options)

        return noted

    with running(setting) as pipeline:
        pipeline.tracer = recorder = SpanRecorder(dist.get_rank())
        method = make_method(pipeline, setting)
        noted = {name: noting(getattr(dist, name)) for name in ("isend", "irecv", "recv")}
        with patch.object(channel, "dist", SimpleNamespace(**noted)):
            for _ in range(2):
                method.step(*setting.case.batch(SAMPLES))
            return recorder.take(), moments


SETTINGS = [
    SETTING,
    replace(SETTING, schedule="gpipe", options=(("curvature", "sample"), ("power_steps", 2))),
    replace(SETTING, workers=4, options=(("preset", "trips"), ("order", "parallel"), ("inner_steps", 1))),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_worker_goes_through_all_waves_and_is_alone_in_the_local_phase(
    workers: Workers, setting: Setting
) -> None:
    found = workers.run(setting.workers, trace, setting)
    for worker, (spans, moments) in enumerate(found):
        assert {span.worker for span in spans} == {worker}
        parts = defaultdict(set)
        for span in spans:
            parts[span.letter].add(span.microbatch)
        assert parts.keys() == set("FBCUAW")
        assert parts["F"] == parts["B"] == set(range(setting.microbatches))
        updates = [span for span in spans if span.letter == "U"]
        assert moments and not [at for span in updates for at in moments if span.start <= at <= span.end]
    timeline = Timeline.merge(spans for spans, _ in found)
    assert timeline.workers == setting.workers
    assert communication_in_local_phase(timeline) == []
