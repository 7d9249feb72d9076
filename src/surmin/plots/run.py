"""The plot of one run."""

from collections.abc import Sequence
from pathlib import Path

from surmin.experiments.configs.run import ExperimentConfig, RunConfig
from surmin.experiments.runs.folder import data_name
from surmin.experiments.runs.metrics import Row
from surmin.own_code import is_own
from surmin.plots.curves import draw_curves
from surmin.plots.series import loss_curve, visible_axes


def draw_run(path: Path, config: RunConfig, rows: Sequence[Row]) -> None:
    """Replace `curves.png`: the training loss against what it cost."""
    panels = [(axis, [loss_curve(config.method, [rows], axis)]) for axis in visible_axes([rows])]
    draw_curves(path, f"{config.method} on {describe(config)}", panels, config.target_loss)


def describe(config: ExperimentConfig) -> str:
    """The problem in a few words."""
    samples = f", first {config.train_samples:,} samples" if config.train_samples else ""
    network = config.model if is_own(config.model) else f"{config.model} {config.layers} × {config.width}"
    activation = f", {config.activation}" if config.activation else ""
    loss = "" if config.loss == ExperimentConfig.loss else f", loss {config.loss}"
    batch = f", batches of {config.batch_size:,}" if config.batch_size else ""
    return f"{data_name(config.data)}{samples}, {network}{activation}{loss}{batch}"
