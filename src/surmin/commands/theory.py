"""`surmin theory`."""

from collections.abc import Sequence
from pathlib import Path

from surmin.commands.progress import terminal_bar
from surmin.commands.tables import print_table
from surmin.exit_codes import SUCCESS
from surmin.experiments.configs.saved import document
from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.files import write_json
from surmin.experiments.runs.folder import claimed, default_folder
from surmin.experiments.runs.processor import set_up_processor
from surmin.experiments.theory.theorem import TheoremRun
from surmin.experiments.theory.theory import (
    NetworkTightness,
    summarize_theorem,
    try_theorem,
    try_tightness,
    write_theorem,
    write_tightness,
)
from surmin.plots.tables import Table, short
from surmin.plots.theory import draw_theorem, draw_tightness, spread_by_layer


def theory(config: TheoryConfig, out: Path | None) -> int:
    """Test Theorem 1, measure tightness, write tables and plots, and print a summary of both."""
    config.check()
    path = out or default_folder("theory", config.data)
    with claimed(path):
        runs, found = _try(config)
        write_json(path / "theory.json", document(config, theorem=[summarize_theorem(run) for run in runs]))
        write_theorem(path / "theorem.csv", runs)
        write_tightness(path / "tightness.csv", found)
        draw_theorem(path / "theorem.png", config, runs)
        draw_tightness(path / "tightness.png", config, found)
    print_table(theorem_table(runs))
    print_table(tightness_table(found))
    print(f"written: {path}/theory.json, theorem.csv, theorem.png, tightness.csv, tightness.png")
    return SUCCESS


def _try(config: TheoryConfig) -> tuple[list[TheoremRun], list[NetworkTightness]]:
    """Both experiments, with a progress bar."""
    set_up_processor(config.threads)
    with terminal_bar() as bar:
        task = bar.add_task("")

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        return try_theorem(config, show), try_tightness(config, show)


def theorem_table(runs: Sequence[TheoremRun]) -> Table:
    """One line per run."""
    headings = [
        "curvature", "N", "β", "min ‖∇h‖²", "2β(h₀ - 0)/T", "T above line", "bound failed", "h descended less",
        "line below ‖∇h₀‖² from T =", "loss",
    ]  # fmt: skip
    rows = []
    for run in runs:
        count = len(run.rounds)
        rows.append([
            run.curvature, str(run.inner_steps), short(run.smoothness), short(run.least[-1]), short(run.line[-1]),
            f"{run.above_line} of {count}", f"{run.bound_failures} of {count}", f"{run.descent_failures} of {count}",
            f"{run.speaks_from:,.0f}", f"{short(run.rounds[0].loss)} to {short(run.rounds[-1].new_loss)}",
        ])  # fmt: skip
    return Table(headings, rows, numbers_from=1)


def tightness_table(found: Sequence[NetworkTightness]) -> Table:
    """One line per depth, point and curvature: the medians over seeds at the first and the last layer."""
    rows = []
    for depth, rounds in dict.fromkeys((network.depth, network.rounds) for network in found):
        own = [network for network in found if (network.depth, network.rounds) == (depth, rounds)]
        for curvature in dict.fromkeys(layer.curvature for layer in own[0].layers):
            ratios = spread_by_layer(own, curvature, "gradient_ratio")
            layers = [layer for network in own for layer in network.layers if layer.curvature == curvature]
            exceeded = sum(not layer.is_bound for layer in layers)
            rows.append([
                str(depth), str(rounds), curvature, short(ratios.median[0]), short(ratios.median[-1]),
                f"{exceeded} of {len(layers)}",
            ])  # fmt: skip
    headings = ["layers", "rounds", "curvature", "gᵀℍg / gᵀGg, first", "last", "ℍ below ∇²h somewhere, layers"]
    return Table(headings, rows, numbers_from=3)
