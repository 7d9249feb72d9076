"""`surmin compare`."""

from pathlib import Path

from surmin.commands.progress import RoundProgress
from surmin.commands.tables import print_table
from surmin.exit_codes import INTERRUPTED, SUCCESS, UNEXPECTED
from surmin.experiments.comparisons.compare import Comparison
from surmin.experiments.comparisons.results import CompareResult, count_seeds, summarize
from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.runs.folder import default_folder
from surmin.plots.comparison import draw_comparison
from surmin.plots.tables import summary_table


def compare(config: CompareConfig, out: Path | None, resume: Path | None) -> int:
    """Start or continue a comparison, plot it, and print what it found and where."""
    path = out or resume or default_folder("compare", config.data)
    comparison = Comparison.resume(resume, config, path) if resume else Comparison.start(config, path)
    results = _run(comparison)
    failed = [result for result in results if result.status == "failed"]
    if len(failed) == len(results):
        raise ValueError("; ".join(dict.fromkeys(f"{result.run.method} failed: {result.failure}" for result in failed)))
    draw_comparison(path, config, results, comparison.left_out)
    summaries = summarize(results)
    print_table(summary_table(summaries, ranges=False))
    if seeds := count_seeds(len(summary.results) for summary in summaries):
        print(f"medians over {seeds}; the page has the ranges")
    for method, reason in comparison.left_out.items():
        print(f"left out: {method} cannot run here: {reason}")
    for result in failed:
        print(f"failed: {result.run.name}, try it again with --resume {path}: {result.failure}")
    print(f"picture: {path / 'curves.png'}")
    print(f"page:    {path / 'report.html'}")
    if not any(result.status == "interrupted" for result in results):
        return UNEXPECTED if failed else SUCCESS
    print(f"interrupted after {len(results)} of {len(comparison.planned)} runs; continue with --resume {path}")
    return INTERRUPTED


def _run(comparison: Comparison) -> list[CompareResult]:
    count = len(comparison.planned)
    names = {planned: f"{number}/{count} {planned.name}" for number, planned in enumerate(comparison.planned, start=1)}
    with RoundProgress() as progress:
        return comparison.run(lambda planned, row: progress.show(names[planned], comparison.config.rounds, row))
