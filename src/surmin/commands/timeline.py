"""`surmin timeline`."""

from pathlib import Path

from surmin.commands.launching import launch
from surmin.experiments.folder import default_folder
from surmin.experiments.timeline_config import TimelineConfig


def timeline(config: TimelineConfig, out: Path | None) -> int:
    """Trace a few steps of both: on workers if that is what is asked for, here otherwise."""
    path = out or default_folder("timeline", config.data)
    code = launch(config, path)
    if code is None:
        from surmin.commands.tracing import trace_here  # here: it imports torch

        code = trace_here(config, path)
    return code
