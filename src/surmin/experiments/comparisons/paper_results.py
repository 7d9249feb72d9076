"""The tables of the paper's grid, one line per run: how it ended, and what it had spent on the way."""

from collections.abc import Sequence
from pathlib import Path

from surmin.experiments.comparisons.milestones import EARLY, LOSS, early_loss, spent_until
from surmin.experiments.comparisons.paper_runs import PaperResult
from surmin.experiments.configs.contenders import write_value
from surmin.experiments.files import write_table
from surmin.experiments.runs.metrics import FIGURES

RUN = ("layers", "method", "inner_steps", "setting", "purpose", "seed")
SPENT = ("round", "seconds", "gradient_equivalents", "messages", "bytes", "forward_waves")


def write_paper_results(path: Path, results: Sequence[PaperResult]) -> None:
    """Replace `results.csv`, how every run ended; empty where a figure does not apply."""
    rows = [{**_describe(result), **result.last.select(FIGURES), "status": result.status} for result in results]
    write_table(path, (*RUN, *FIGURES, "status"), rows)


def write_milestones(path: Path, results: Sequence[PaperResult]) -> None:
    """Replace `milestones.csv`: every run's early loss, and what had been spent at the first row with `LOSS`.

    Runs that only tuned are left out; what a run never reached, in loss or in rounds, is empty. The early loss is
    infinite for a run that diverged or failed earlier.
    """
    rows = []
    for result in results:
        if result.run.seed is not None:
            reached = spent_until(result.rows)
            spent = {f"{name}_to_{LOSS:g}": reached and getattr(reached, name) for name in SPENT}
            rows.append({**_describe(result), f"loss_at_{EARLY}": early_loss(result), **spent})
    write_table(path, list(rows[0]) if rows else RUN, rows)


def _describe(result: PaperResult) -> dict[str, object]:
    cell, run = result.run.cell, result.run
    values = (
        cell.layers, cell.contender, cell.inner_steps, write_setting(run.setting),
        "tuning" if run.seed is None else "result", run.config.seed,
    )  # fmt: skip
    return dict(zip(RUN, values, strict=True))


def write_setting(setting: Sequence[tuple[str, object]]) -> str:
    """As words: "lr 0.1"."""
    return ", ".join(f"{name.replace('_', ' ')} {write_value(value, ' ')}" for name, value in setting)
