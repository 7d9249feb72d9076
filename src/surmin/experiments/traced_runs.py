"""The steps that `surmin timeline` shows."""

from surmin.experiments.timeline_config import TimelineConfig
from surmin.pipeline.timeline import Timeline


def trace_runs(config: TimelineConfig) -> dict[str, Timeline] | None:
    """Run gradient steps, then rounds of sm, on the workers this process is one of; the first of each is not traced.

    Returns:
        On worker 0 what all workers recorded, by run: first the schedule's name, then "sm". None on the others.
    """
    raise NotImplementedError
