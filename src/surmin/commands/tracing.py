"""What `surmin timeline` does in each process that is traced."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surmin.commands.joining import joined_team
from surmin.exit_codes import SUCCESS
from surmin.experiments.configs.timeline import TimelineConfig
from surmin.experiments.files import write_json
from surmin.experiments.runs.folder import claim_folder
from surmin.experiments.traces.chrome_trace import to_chrome_trace
from surmin.experiments.traces.runs import trace_runs
from surmin.experiments.traces.timeline import Timeline, theoretical_bubble
from surmin.plots.run import describe
from surmin.plots.tables import percent
from surmin.plots.timeline import draw_timelines

TITLES = {
    "posted": "GPipe, receives posted ahead (gradient step)",
    "gpipe": "GPipe (gradient step)",
    "1f1b": "1F1B (gradient step)",
    "sm": "Surrogate Minimization",
}


def trace_here(config: TimelineConfig, path: Path) -> int:
    """Trace a few steps; worker 0 writes timeline.json, draws timeline.png and prints who was busy."""
    with joined_team(config, path) as (config, path, team):
        runs = trace_runs(config, team)
    if runs is None:
        return SUCCESS
    claim_folder(path)
    write_json(path / "timeline.json", {"otherData": describe_runs(config, runs)} | to_chrome_trace(runs))
    title = f"{describe(config)}: {config.workers} workers, {config.microbatches} micro-batches"
    draw_timelines(path / "timeline.png", title, {TITLES[run]: found for run, found in runs.items()})
    for run, found in runs.items():
        print(f"{TITLES[run]}: {describe_use(found, config.microbatches)}")
    print(f"written: {path / 'timeline.json'} (open it in ui.perfetto.dev), {path / 'timeline.png'}")
    return SUCCESS


def describe_runs(config: TimelineConfig, runs: Mapping[str, Timeline]) -> dict[str, Any]:
    """What was traced and what it comes to, as plain values."""
    figures = {
        run: {"utilisation": found.utilisation, "bubble": found.bubble, "local_overlap": found.local_overlap}
        for run, found in runs.items()
    }
    return {"command": config.command, "options": config.to_json(), "runs": figures}


def describe_use(found: Timeline, microbatches: int) -> str:
    """How busy the workers were, in one line."""
    theory = theoretical_bubble(found.workers, microbatches)
    return (
        f"utilisation {percent(1 - found.bubble)}, bubble {percent(found.bubble)}, "
        f"(K - 1)/(M + K - 1) = {percent(theory)}, local updates shared {percent(found.local_overlap)}"
    )
