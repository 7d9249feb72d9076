"""The steps that `surmin timeline` shows."""

import json
from collections.abc import Callable
from typing import Any

from torch import Tensor

from surmin.data import Dataset
from surmin.experiments.configs.timeline import TimelineConfig
from surmin.experiments.runs.problem import build_problem, load_data, method_options
from surmin.experiments.runs.processor import set_up_processor
from surmin.experiments.runs.team import Team
from surmin.experiments.traces.timeline import Timeline
from surmin.methods.base import Method
from surmin.methods.registry import build_method
from surmin.pipeline.tracing import NULL_TRACER, Clock, Span, SpanRecorder, synchronized_clock

WARM_UP = 2
"""Steps of each kind that are not traced: the first ones negotiate shapes and count operations."""


def trace_runs(config: TimelineConfig, team: Team) -> dict[str, Timeline] | None:
    """Run gradient steps, then rounds of sm, on the workers of a team; the first ones of each are not traced.

    Returns:
        On worker 0 what all workers recorded, by run: first the schedule's name, then "sm". None on the others.

    Raises:
        ValueError: if there are too few samples for the micro-batches, or the network cannot be built or cut.
    """
    set_up_processor(config.threads)
    data = load_data(config, team)
    samples = len(data.train_inputs)
    if samples < config.microbatches:
        raise ValueError(f"{samples} samples cannot be cut into {config.microbatches} equal micro-batches")
    runs = {
        config.schedule: _trace(config, data, team, "gd", {}, config.gradient_steps),
        "sm": _trace(config, data, team, "sm", method_options("sm", data, config.given_options()), config.rounds),
    }
    return None if team.rank else {name: Timeline.merge(spans) for name, spans in runs.items()}


def _trace(
    config: TimelineConfig, data: Dataset, team: Team, method: str, options: dict[str, Any], steps: int
) -> list[list[Span]]:
    """Every worker's spans. Both runs start with the same network, and drop samples that fill no micro-batch."""
    pipeline = build_problem(config, data, team).pipeline
    samples = len(data.train_inputs) // config.microbatches * config.microbatches
    batch = data.train_inputs[:samples], data.train_targets[:samples]
    step = _stepper(build_method(method, pipeline, seed=config.seed, **options), *batch)
    step(WARM_UP)
    clock = synchronized_clock(data.train_inputs.device)
    pipeline.tracer = recorder = SpanRecorder(team.rank, clock=clock, origin=common_origin(team, clock))
    step(steps)
    pipeline.tracer = NULL_TRACER
    return [[Span(*span) for span in json.loads(text)] for text in team.gather(json.dumps(recorder.take()))]


def common_origin(team: Team, clock: Clock) -> int:
    """What the clock shows as all members start together; 0 if they are on one machine and read one clock."""
    places = team.gather(str(team.place))
    return clock() if len(set(places)) < team.count else 0


def _stepper(method: Method, inputs: Tensor, targets: Tensor) -> Callable[[int], None]:
    def step(count: int) -> None:
        for _ in range(count):
            method.step(inputs, targets)

    return step
