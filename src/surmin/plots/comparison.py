"""The plots and the page of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from surmin.experiments.comparisons.completing import run_folder
from surmin.experiments.comparisons.results import CHOICE_RULE, CompareResult, Summary, count_seeds, summarize
from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.configs.saved import read_config
from surmin.experiments.files import read_json
from surmin.experiments.runs.folder import RunFolder
from surmin.methods.registry import default_option
from surmin.models.building import DEFAULT_ACTIVATIONS
from surmin.plots.curves import draw_curves, meaning_of_crosses
from surmin.plots.page import Picture, Section, write_page
from surmin.plots.run import describe
from surmin.plots.series import LINES_AND_BANDS, loss_curve, visible_axes
from surmin.plots.tables import Table, runs_table, summary_table

OF_WORKERS = ("workers", "replicas", "schedule", "timeout")
"""Options that a comparison, in one process, leaves at their defaults."""


def draw_comparison(
    folder: Path,
    config: CompareConfig,
    results: Sequence[CompareResult],
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Replace `curves.png`, one `loss-….png` per axis, and `report.html`.

    Args:
        folder: of the comparison, with what it and its runs ran with.
        config: its options.
        results: of all runs, one of which at least has not failed.
        left_out: methods that cannot run on this network, and why.
    """
    summaries, failed = summarize(results), [result for result in results if result.status == "failed"]
    table = summary_table(summaries, ranges=True)
    pictures = _draw_pictures(folder, config, summaries)
    write_page(
        folder / "report.html",
        f"Comparison on {describe(config)}",
        [
            Section(
                "Summary",
                [_limits(config), table, _how_to_read(config, summaries), *_tuning(results), pictures[0]],
            ),
            Section("Curves one by one", pictures[1:]),
            Section("Every run", [runs_table(results)]),
            *_reasons("Methods left out", "method", left_out),
            *_reasons("Runs that failed", "run", {result.run.name: result.failure for result in failed}),
            Section(
                "Settings", [_settings(folder, config, next(result for result in results if result not in failed))]
            ),
        ],
    )


def _draw_pictures(folder: Path, config: CompareConfig, summaries: Sequence[Summary]) -> list[Picture]:
    panels = [
        (axis, [loss_curve(summary.label, [result.rows for result in summary.results], axis) for summary in summaries])
        for axis in visible_axes([result.rows for summary in summaries for result in summary.results])
    ]
    several = count_seeds(len(summary.results) for summary in summaries)
    seeds = f"median and range over {several}" if several else f"seed {config.seed}"
    title = f"{describe(config)}: {seeds}"
    overview = Picture(folder / "curves.png", f"Training loss against what it cost; {seeds}.")
    crosses = meaning_of_crosses(result for summary in summaries for result in summary.results)
    draw_curves(overview.path, title, panels, config.target_loss, crosses)
    pictures = [overview]
    for panel in panels:
        axis = panel[0]
        pictures.append(Picture(folder / f"loss-{axis.name}.png", f"Training loss against {axis.label}; {seeds}."))
        draw_curves(pictures[-1].path, title, [panel], config.target_loss, crosses)
    return pictures


def _reasons(heading: str, of: str, reasons: Mapping[str, str]) -> list[Section]:
    """A table of what is missing and why; no section if nothing is."""
    return [Section(heading, [Table([of, "why"], list(reasons.items()), numbers_from=2)])] if reasons else []


def _limits(config: CompareConfig) -> str:
    target = "" if config.target_loss is None else f" at a training loss of {config.target_loss:g}, or"
    return f"Every run stops{target} after {config.rounds:,} rounds."


def _how_to_read(config: CompareConfig, summaries: Sequence[Summary]) -> str:
    several = count_seeds(len(summary.results) for summary in summaries)
    over_seeds = ": the median over seeds, below it the range" if several else ""
    lines = f" {LINES_AND_BANDS}" if several else ""
    steps = config.inner_steps or default_option("lbfgs", "inner_steps")
    of_lbfgs = f" (of lbfgs, {steps:,} iterations)" if any(summary.method == "lbfgs" for summary in summaries) else ""
    return (
        f"Each figure describes the network a run ended with, and what had been spent by then{over_seeds}. A round is "
        f"one outer iteration of a method{of_lbfgs}. Work is counted from operations (matrix products, convolutions, "
        "factorizations), in units of one forward and one backward pass over the batch. Forward waves, messages and "
        "bytes between stages include those of acceptance tests, of line searches, and of tangents on their way up. "
        f"Time is that of one machine, with evaluation left out.{lines}"
    )


def _tuning(results: Sequence[CompareResult]) -> list[str]:
    settings = {result.run.setting for result in results}
    return [CHOICE_RULE] if len(settings) > len({method for method, _ in settings}) else []


def _settings(folder: Path, config: CompareConfig, result: CompareResult) -> Table:
    """The given options, those a run finds for itself as one has found them, and what it ran on."""
    environment = read_json(RunFolder(folder).config, lambda document: document["environment"])
    found = asdict(config) | {
        "stages": read_config(run_folder(folder, result.run), RunConfig).stages,
        "activation": config.activation or DEFAULT_ACTIVATIONS.get(config.model),
        "device": environment["device_type"],
        "batch_size": config.batch_size or "the full batch",
    }
    rows = [
        [name, " ".join(map(str, value)) if isinstance(value, tuple) else str(value)]
        for name, value in found.items()
        if value not in (None, ()) and name not in OF_WORKERS
    ]
    machine = [
        ["machine", environment["device"]],
        *([name, environment[name]] for name in ("surmin", "torch", "python")),
    ]
    return Table(["setting", "value"], [*rows, *machine], numbers_from=2)
