"""`surmin timeline`."""

from pathlib import Path

from surmin.commands.launching import launch
from surmin.experiments.configs.timeline import TimelineConfig
from surmin.experiments.runs.folder import default_folder


def timeline(config: TimelineConfig, out: Path | None) -> int:
    """Trace a few steps of both: on workers if requested, here otherwise."""
    path = out or default_folder("timeline", config.data)
    code = launch(config, path)
    if code is None:
        from surmin.commands.tracing import trace_here  # here: it imports torch

        code = trace_here(config, path)
    return code
