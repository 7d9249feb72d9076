"""`surmin compare`."""

from pathlib import Path

from surmin.commands.progress import RoundProgress
from surmin.commands.tables import print_table
from surmin.exit_codes import INTERRUPTED, SUCCESS, UNEXPECTED
from surmin.experiments.comparisons.compare import Comparison
from surmin.experiments.comparisons.results import CompareResult, several_seeds, summarize
from surmin.experiments.configs.run import CompareConfig
from surmin.experiments.runs.folder import default_folder
from surmin.plots.comparison import draw_comparison
from surmin.plots.tables import summary_table


def compare(config: CompareConfig, out: Path | None, resume: Path | None) -> int:
    """Start or continue a comparison, draw it, and print what it found and where."""
    path = out or resume or default_folder("compare", config.data)
    comparison = Comparison.resume(resume, config, path) if resume else Comparison.start(config, path)
    results = _run(comparison)
    if not results:
        raise ValueError("; ".join(f"{method} failed: {reason}" for method, reason in comparison.failed.items()))
    draw_comparison(path, config, results, {**comparison.left_out, **comparison.failed})
    summaries = summarize(results)
    print_table(summary_table(summaries, ranges=False))
    if seeds := several_seeds(summaries):
        print(f"medians over {seeds}; the page has the ranges")
    for method, reason in comparison.left_out.items():
        print(f"left out: {method} cannot run here: {reason}")
    for method, reason in comparison.failed.items():
        print(f"failed: {method}, try it again with --resume {path}: {reason}")
    print(f"picture: {path / 'curves.png'}")
    print(f"page:    {path / 'report.html'}")
    if not any(result.status == "interrupted" for result in results):
        return UNEXPECTED if comparison.failed else SUCCESS
    print(f"interrupted after {len(results)} of {len(comparison.planned)} runs; continue with --resume {path}")
    return INTERRUPTED


def _run(comparison: Comparison) -> list[CompareResult]:
    count = len(comparison.planned)
    names = {planned: f"{number}/{count} {planned.name}" for number, planned in enumerate(comparison.planned, start=1)}
    with RoundProgress() as progress:
        return comparison.run(lambda planned, row: progress.show(names[planned], comparison.config.rounds, row))
