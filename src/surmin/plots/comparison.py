"""The pictures and the page of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from surmin.experiments.comparisons.results import CHOICE_RULE, Result, Summary, several_seeds, summarize
from surmin.experiments.configs.run import CompareConfig
from surmin.plots.curves import draw_curves
from surmin.plots.page import Picture, Section, write_page
from surmin.plots.run import describe
from surmin.plots.series import loss_curve, visible_axes
from surmin.plots.tables import Table, runs_table, summary_table

HOW_TO_READ = (
    "Each figure describes the network a run ended with, and what had been spent by then: the median over seeds, below "
    "it the range. A round is one outer iteration of a method (of lbfgs, --inner-steps iterations). Work is counted "
    "from operations (matrix products, convolutions, factorizations), in units of one forward and one backward pass "
    "over the batch. Forward waves, messages and bytes between stages include those of acceptance tests, of line "
    "searches, and of tangents on their way up. Time is that of one machine, with evaluation left out."
)
OF_WORKERS = ("workers", "replicas", "schedule", "timeout")
"""Options that a comparison, in one process, leaves at their defaults."""


def draw_comparison(
    folder: Path, config: CompareConfig, results: Sequence[Result], left_out: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Replace `curves.png`, one `loss-….png` an axis, and `report.html`.

    Args:
        folder: of the comparison.
        config: its options.
        results: of all runs.
        left_out: methods that cannot run on this network or failed, and why.
    """
    summaries = summarize(results)
    pictures = _draw_pictures(folder, config, summaries)
    write_page(
        folder / "report.html",
        f"Comparison on {describe(config)}",
        [
            Section(
                "Summary",
                [_limits(config), summary_table(summaries, ranges=True), HOW_TO_READ, *_tuning(results), pictures[0]],
            ),
            Section("Curves one by one", pictures[1:]),
            Section("Every run", [runs_table(results)]),
            *([Section("Methods left out", [_left_out_table(left_out)])] if left_out else []),
            Section("Settings", [_settings(config)]),
        ],
    )


def _draw_pictures(folder: Path, config: CompareConfig, summaries: Sequence[Summary]) -> list[Picture]:
    panels = [
        (axis, [loss_curve(summary.label, [result.rows for result in summary.results], axis) for summary in summaries])
        for axis in visible_axes([result.rows for summary in summaries for result in summary.results])
    ]
    several = several_seeds(summaries)
    seeds = f"median and range over {several}" if several else f"seed {config.seed}"
    title = f"{describe(config)}: {seeds}"
    overview = Picture(folder / "curves.png", f"Training loss against what it cost; {seeds}.")
    draw_curves(overview.path, title, panels, config.target_loss)
    pictures = [overview]
    for panel in panels:
        axis = panel[0]
        pictures.append(Picture(folder / f"loss-{axis.name}.png", f"Training loss against {axis.label}; {seeds}."))
        draw_curves(pictures[-1].path, title, [panel], config.target_loss)
    return pictures


def _left_out_table(left_out: Mapping[str, str]) -> Table:
    return Table(["method", "why"], list(left_out.items()), numbers_from=2)


def _limits(config: CompareConfig) -> str:
    target = "" if config.target_loss is None else f" at a training loss of {config.target_loss:g}, or"
    return f"Every run stops{target} after {config.rounds:,} rounds."


def _tuning(results: Sequence[Result]) -> list[str]:
    settings = {result.setting for result in results}
    return [CHOICE_RULE] if len(settings) > len({method for method, _ in settings}) else []


def _settings(config: CompareConfig) -> Table:
    given = {
        name: value for name, value in config.to_json().items() if value not in (None, ()) and name not in OF_WORKERS
    }
    values = [" ".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in given.values()]
    return Table(["option", "value"], list(zip(given, values, strict=True)), numbers_from=2)
