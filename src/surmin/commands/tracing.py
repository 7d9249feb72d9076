"""What `surmin timeline` does in each traced process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surmin.commands.joining import joined_team
from surmin.exit_codes import SUCCESS
from surmin.experiments.configs.saved import document
from surmin.experiments.configs.timeline import TimelineConfig
from surmin.experiments.files import write_json
from surmin.experiments.runs.folder import claim_folder
from surmin.experiments.traces.chrome_trace import to_chrome_trace
from surmin.experiments.traces.runs import trace_runs
from surmin.experiments.traces.timeline import Timeline, theoretical_bubble
from surmin.plots.run import describe
from surmin.plots.tables import counted, percent
from surmin.plots.timeline import draw_timelines

SCHEDULES = {"posted": "GPipe, receives posted ahead", "gpipe": "GPipe", "1f1b": "1F1B"}


def trace_here(config: TimelineConfig, path: Path) -> int:
    """Trace a few steps; worker 0 writes timeline.json, draws timeline.png and prints who was busy."""
    with joined_team(config, path) as (config, path, team):
        runs = trace_runs(config, team)
    if runs is None:
        return SUCCESS
    claim_folder(path)
    write_json(path / "timeline.json", {"otherData": describe_runs(config, runs)} | to_chrome_trace(runs))
    size = f"{counted(config.workers, 'worker')}, {counted(config.microbatches, 'micro-batch', 'es')}"
    titled = {title_of(config, run): found for run, found in runs.items()}
    draw_timelines(path / "timeline.png", f"{describe(config)}: {size}", titled)
    for title, found in titled.items():
        print(f"{title}: {describe_use(found, config.microbatches)}")
    print(f"written: {path / 'timeline.json'} (open it in ui.perfetto.dev), {path / 'timeline.png'}")
    return SUCCESS


def title_of(config: TimelineConfig, run: str) -> str:
    """What was traced, in a few words."""
    if run == "sm":
        return f"{counted(config.rounds, 'round')} of sm" + (f", preset {config.preset}" if config.preset else "")
    return f"{counted(config.gradient_steps, 'gradient step')} by {SCHEDULES[run]}"


def describe_runs(config: TimelineConfig, runs: Mapping[str, Timeline]) -> dict[str, Any]:
    """What was traced and what it comes to, as plain values."""
    figures = {
        run: {"utilisation": found.utilisation, "bubble": found.bubble, "local_overlap": found.local_overlap}
        for run, found in runs.items()
    }
    return document(config, runs=figures)


def describe_use(found: Timeline, microbatches: int) -> str:
    """How busy the workers were, in one line."""
    theory = theoretical_bubble(found.workers, microbatches)
    return (
        f"utilisation {percent(1 - found.bubble)}, bubble {percent(found.bubble)}, "
        f"(K - 1)/(M + K - 1) = {percent(theory)}, local updates shared {percent(found.local_overlap)}"
    )
