"""The tables of the paper's grid: verdicts, and for every depth how runs ended and what a loss had cost."""

import math
from collections.abc import Mapping, Sequence

from surmin.experiments.comparisons.claim import ClaimVerdict
from surmin.experiments.comparisons.milestones import LOSS, is_out_of_reach, spent_until
from surmin.experiments.comparisons.paper_results import write_setting
from surmin.experiments.comparisons.paper_runs import Cell, PaperResult
from surmin.experiments.comparisons.results import Spread, count_statuses
from surmin.experiments.runs.metrics import Row
from surmin.plots.tables import FIGURE_COLUMNS, FigureColumn, Table, percent, write_spread

Groups = Mapping[Cell, Sequence[PaperResult]]
HOW_RUNS_ENDED = (
    "Training loss and test accuracy at the end, medians over seeds; below them the range of the loss where there is "
    "one. A run ends after all its rounds, or earlier at the target loss. A method that takes no inner steps has the "
    "same figures at every N. A dash is the loss of a run that diverged or failed; where all did, the cell says so."
)
WHAT_A_LOSS_COST = (
    f"What had been spent at the first row with a training loss of {LOSS:g} or less, medians over seeds; below them "
    "the range. A seed that never gets there counts as infinite, a dash; what gets there on no seed is missing."
)
COST_COLUMNS = [column for column in FIGURE_COLUMNS if column[0] not in ("loss", "test_accuracy")]


def verdict_table(verdicts: Sequence[ClaimVerdict]) -> Table:
    """One line per claim."""
    rows = [[each.claim, each.subject, each.verdict, each.figures] for each in verdicts]
    return Table(["claim", "for", "verdict", "figures"], rows, numbers_from=4)


def final_table(groups: Groups) -> Table:
    """A line for every method and a column for every N: how runs ended."""
    found = sorted({cell.inner_steps for cell in groups if cell.inner_steps is not None})
    steps: Sequence[int | None] = found or [None]
    lines: dict[str, dict[int | None, str]] = {}
    for cell, group in groups.items():
        lines.setdefault(cell.contender, {})[cell.inner_steps] = _final(group)
    rows = [[name, *(line.get(n, line.get(None, "")) for n in steps)] for name, line in lines.items()]
    return Table(["method", *("at the end" if n is None else f"N = {n}" for n in steps)], rows, numbers_from=1)


def cell_table(groups: Groups) -> Table:
    """One line per method and N: all figures that runs ended with."""
    headings = ["method", "N", "setting", "outcome", *(heading for _, heading, _ in FIGURE_COLUMNS)]
    rows = []
    for cell, group in groups.items():
        outcomes = count_statuses(result.status for result in group)
        last = [result.last for result in group]
        rows.append([*_described(cell, group), outcomes, *_figures(last, FIGURE_COLUMNS)])
    return Table(headings, rows, numbers_from=4)


def cost_table(groups: Groups) -> Table:
    """One line per method and N that reached `milestones.LOSS` on a seed: what it had spent by then.

    None if runs already stop at a higher loss, as it is unknown then which of them would have reached it.
    """
    headings = ["method", "N", "setting", "seeds", *(heading for _, heading, _ in COST_COLUMNS)]
    rows = []
    for cell, group in groups.items():
        reached = [] if is_out_of_reach(group) else [spent_until(result.rows) for result in group]
        count = sum(row is not None for row in reached)
        if count:
            rows.append([*_described(cell, group), f"{count} of {len(group)}", *_figures(reached, COST_COLUMNS)])
    return Table(headings, rows, numbers_from=4)


def _final(group: Sequence[PaperResult]) -> str:
    if all(result.last.loss is None for result in group):
        return count_statuses(result.status for result in group)
    target = group[0].run.config.target_loss or 0.0

    def write(loss: float | None) -> str:
        if loss is None or math.isinf(loss):
            return "–"
        return f"≤ {target:g}" if loss <= target else f"{loss:.2g}"

    last = [result.last for result in group]
    losses, accuracy = Spread.of("loss", last), Spread.of("test_accuracy", last)
    median, *range_below = write_spread(losses, write).split("\n")
    return "\n".join([f"{median}, {percent(accuracy.median)}", *range_below])


def _described(cell: Cell, group: Sequence[PaperResult]) -> list[str]:
    steps = "–" if cell.inner_steps is None else str(cell.inner_steps)
    return [cell.contender, steps, write_setting(group[0].run.setting) or "–"]


def _figures(rows: Sequence[Row | None], columns: Sequence[FigureColumn]) -> list[str]:
    return [write_spread(Spread.of(name, rows), write) for name, _, write in columns]
