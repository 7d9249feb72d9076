from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.collections import Collection
from PIL import Image

from surmin.experiments.comparisons.completing import Result
from surmin.experiments.comparisons.grid import plan_runs
from surmin.experiments.comparisons.results import CompareResult
from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.runs.folder import write_config
from surmin.experiments.runs.metrics import Row
from tests.experiments.runs.cases import tiny_comparison

COMPARISON = tiny_comparison(methods="sm,adam,gd", lr=("0.1,0.2",), seeds=2, target_loss=0.1)


def make_rows(losses: Sequence[float | None], seconds: float = 0.5) -> list[Row]:
    return [
        Row(
            number, loss, 0.9, seconds=seconds * number, gradient_equivalents=4.0 * number, messages=6 * number,
            bytes=3_000_000 * number, forward_waves=2 * number,
        )
        for number, loss in enumerate(losses)
    ]  # fmt: skip


def make_results() -> list[CompareResult]:
    shapes: dict[str, list[float | None]] = {
        "sm": [2.3, 1.0, 0.01],
        "adam": [2.3 * 0.9**number for number in range(40)],
        "gd": [2.3, 5.0, None],
    }
    return [
        Result(
            run, make_rows(shapes[run.method], 0.5 + 0.1 * run.seed), "diverged" if run.method == "gd" else "reached"
        )
        for run in plan_runs(COMPARISON)
    ]


def write_configs(folder: Path, config: CompareConfig = COMPARISON, stages: int = 2) -> None:
    """What a comparison and its runs leave of what they ran with."""
    write_config(folder / "config.json", config, torch.device("cpu"))
    for run in plan_runs(config):
        (folder / "runs" / run.name).mkdir(parents=True)
        write_config(
            folder / "runs" / run.name / "config.json", replace(run.config, stages=stages), torch.device("cpu")
        )


def edges(band: Collection) -> list[tuple[float, float, float]]:
    """Of what `fill_between` drew: x, the lowest and the highest y there."""
    points: dict[float, list[float]] = {}
    for x, y in band.get_paths()[0].vertices.tolist():  # type: ignore[union-attr]
        points.setdefault(x, []).append(y)
    return [(x, min(values), max(values)) for x, values in sorted(points.items())]


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.verify()
        return picture.size
