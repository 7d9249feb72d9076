"""What every worker does in a round, and that nothing is sent while the local losses are minimised."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch.distributed as dist

from surmin.experiments.traces.timeline import Timeline
from surmin.pipeline.schedule_names import ScheduleName
from surmin.pipeline.tracing import Span, SpanRecorder, synchronized_clock
from tests.distributed.settings import SAMPLES, Setting, make_method, running
from tests.distributed.watching import watched
from tests.distributed.workers import Workers
from tests.pipeline.spans import communication_in_local_phase

ROUNDS = 2
SETTING = Setting(workers=2, stages=4, microbatches=3)
SEQUENTIAL = replace(SETTING, options=(("preset", "trips"), ("inner_steps", 1)))
"""Stage by stage, where the last worker alone decides whether to accept, and announces it."""


def trace(setting: Setting) -> tuple[list[Span], list[int]]:
    """The spans of two rounds, and when something was handed to a process group."""
    with running(setting) as pipeline:
        pipeline.tracer = recorder = SpanRecorder(dist.get_rank(), clock=synchronized_clock(pipeline.device))
        method = make_method(pipeline, setting)
        with watched() as sent:
            for _ in range(ROUNDS):
                method.step(*setting.case.batch(SAMPLES))
            return recorder.take(), sent.moments


SETTINGS = [
    SETTING,
    replace(SETTING, schedule="gpipe", options=(("curvature", "sample"), ("power_steps", 2))),
    SEQUENTIAL,
    replace(SEQUENTIAL, workers=4, options=(*SEQUENTIAL.options, ("order", "parallel"))),
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
        accepts = setting != SEQUENTIAL or worker == setting.workers - 1
        assert parts.keys() == set("FBCUAW" if accepts else "FBCUW")
        assert parts["F"] == parts["B"] == parts["C"] - {None} == set(range(setting.microbatches))
        assert moments and not [span for span in spans if span.letter == "U" and has_one(moments, span.start, span.end)]
    timeline = Timeline.merge(spans for spans, _ in found)
    assert timeline.workers == setting.workers
    assert communication_in_local_phase(timeline) == []


@pytest.mark.parametrize("options", [{}, {"curvature": "sample", "power_steps": 2}], ids=["factor", "sample"])
def test_curvature_leaves_micro_batch_by_micro_batch(workers: Workers, options: dict[str, object]) -> None:
    """The last worker sends what it has of one before it begins with the next."""
    *_, (spans, moments) = workers.run(2, trace, replace(SETTING, options=tuple(options.items())))
    numbered = [span for span in spans if span.letter == "C" and span.microbatch is not None]
    steps = [(one, other) for one, other in pairwise(numbered) if one.microbatch + 1 == other.microbatch]
    assert len(steps) == ROUNDS * (SETTING.microbatches - 1)
    assert all(has_one(moments, one.end, other.start) for one, other in steps)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_step_of_torch_s_schedule_is_waiting_but_for_the_stages(workers: Workers, schedule: ScheduleName) -> None:
    for spans, _ in workers.run(2, trace, replace(SETTING, schedule=schedule)):
        backward = [span for span in spans if span.letter == "B"]
        steps = [span for span in spans if span.letter == "W" and any(is_within(own, span) for own in backward)]
        assert len(steps) == ROUNDS
        assert all(any(is_within(own, step) for step in steps) for own in backward)


def test_workers_are_in_their_local_phases_at_the_same_time(workers: Workers) -> None:
    """They are so for long that none can be over before the other begins."""
    found = workers.run(2, trace, Setting(workers=2, stages=2, microbatches=1, network="wide"))
    assert Timeline.merge(spans for spans, _ in found).local_overlap > 0


def test_the_command_traces_workers(tmp_path: Path) -> None:
    words = (
        "timeline --workers 2 --data digits --train-samples 40 --layers 2 --width 4 --microbatches 2 --gradient-steps 1"
    )
    command = [sys.executable, "-m", "surmin", *words.split(), "--rounds", "1", "--out", str(tmp_path / "traced")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in (tmp_path / "traced").iterdir()} >= {"timeline.json", "timeline.png"}


def has_one(moments: Sequence[int], start: int, end: int) -> bool:
    return any(start <= at <= end for at in moments)


def is_within(inner: Span, outer: Span) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end
