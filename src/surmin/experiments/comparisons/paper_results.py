"""The table of the paper's grid: one line a run, those that only tuned a setting included."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from surmin.experiments.comparisons.paper_grid import write_value
from surmin.experiments.comparisons.paper_runs import PaperResult
from surmin.experiments.runs.files import write_table
from surmin.experiments.runs.metrics import FIGURES

COLUMNS = ("layers", "method", "inner_steps", "setting", "purpose", "seed", *FIGURES, "status")


def write_paper_results(path: Path, results: Sequence[PaperResult]) -> None:
    """Replace `results.csv`; empty where a figure does not apply."""
    rows = []
    for result in results:
        cell, run = result.run.cell, result.run
        described = {"layers": cell.layers, "method": cell.contender, "inner_steps": cell.inner_steps}
        purpose = {"purpose": "tuning" if run.seed is None else "result", "seed": run.config.seed}
        setting = {"setting": write_setting(run.setting)}
        rows.append({**described, **setting, **purpose, **asdict(result.rows[-1]), "status": result.status})
    write_table(path, COLUMNS, rows)


def write_setting(setting: Sequence[tuple[str, object]]) -> str:
    """As words: "lr 0.1"."""
    return ", ".join(f"{name.replace('_', ' ')} {write_value(value, ' ')}" for name, value in setting)
