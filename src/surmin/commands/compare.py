"""`surmin compare`."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from surmin.commands.progress import RoundProgress
from surmin.exit_codes import INTERRUPTED, SUCCESS
from surmin.experiments.comparisons.compare import Comparison
from surmin.experiments.comparisons.results import Result, summarize
from surmin.experiments.configs.run import CompareConfig
from surmin.experiments.runs.folder import default_folder
from surmin.plots.comparison import draw_comparison
from surmin.plots.tables import Table, summary_table

WIDTH = 160  # of tables that do not go to a terminal


def compare(config: CompareConfig, out: Path | None, resume: Path | None) -> int:
    """Start or continue a comparison, draw it, and print what it found and where."""
    path = out or resume or default_folder("compare", config.data)
    comparison = Comparison.resume(resume, config, path) if resume else Comparison.start(config, path)
    results = _run(comparison)
    draw_comparison(path, config, results, comparison.left_out)
    print_table(summary_table(summarize(results), ranges=False))
    if config.seeds > 1:
        print(f"medians over {config.seeds} seeds; the page has the ranges")
    for method, reason in comparison.left_out.items():
        print(f"left out: {method} cannot run here: {reason}")
    print(f"picture: {path / 'curves.png'}")
    print(f"page:    {path / 'report.html'}")
    if len(results) == len(comparison.planned) and results[-1].status != "interrupted":
        return SUCCESS
    print(f"interrupted after {len(results)} of {len(comparison.planned)} runs; continue with --resume {path}")
    return INTERRUPTED


def print_table(table: Table) -> None:
    """A table on the standard output."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    drawn = RichTable(box=box.SIMPLE_HEAD)
    for number, heading in enumerate(table.headings):
        drawn.add_column(heading, justify="right" if number >= table.numbers_from else "left")
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)


def _run(comparison: Comparison) -> list[Result]:
    count = len(comparison.planned)
    names = {planned: f"{number}/{count} {planned.name}" for number, planned in enumerate(comparison.planned, start=1)}
    with RoundProgress() as progress:
        return comparison.run(lambda planned, row: progress.show(names[planned], comparison.config.rounds, row))
