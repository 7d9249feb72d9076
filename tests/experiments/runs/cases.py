from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs.metrics import Row, read_rows
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.saved import SavedRun

TINY: dict[str, Any] = {"train_samples": 60, "layers": 3, "width": 8, "stages": 2, "rounds": 4, "dtype": "float64"}


def tiny_run(**options: Any) -> RunConfig:
    dense = {"width": 2} if options.get("method") == "newton" else {}  # whose Hessian has a column for every parameter
    return RunConfig(**{**TINY, **dense, **options})


def tiny_comparison(**options: Any) -> CompareConfig:
    return CompareConfig(**{**TINY, **options})


def save_regression(folder: Path, **changes: NDArray[Any]) -> str:
    """Two smooth functions of four numbers, 40 samples to train on and 12 to test, as `--data` takes them."""
    inputs = np.random.default_rng(0).normal(size=(52, 4))
    targets = np.stack([inputs[:, 0] * inputs[:, 1], np.sin(inputs[:, 2])], axis=1)
    arrays = {"x_train": inputs[:40], "y_train": targets[:40], "x_test": inputs[40:], "y_test": targets[40:]}
    np.savez(folder / "numbers.npz", **{**arrays, **changes})
    return str(folder / "numbers.npz")


def start(config: RunConfig, folder: Path) -> Run:
    run = Run(config, folder)
    run.start()
    return run


def resume(source: Path, folder: Path | None = None, **changes: Any) -> Run:
    saved = SavedRun.read(source)
    run = Run(replace(saved.config, **changes), folder or source)
    run.resume(saved)
    return run


def untimed(rows: list[Row]) -> list[Row]:
    return [replace(row, seconds=0.0) for row in rows]


def rows_of(folder: Path) -> list[Row]:
    return untimed(read_rows(folder / "metrics.jsonl"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
