"""`surmin simulate`."""

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from surmin.commands.progress import RoundProgress, terminal_bar
from surmin.commands.tables import print_table
from surmin.exit_codes import SUCCESS, USER_ERROR
from surmin.experiments.configs.saved import document
from surmin.experiments.configs.simulate import SimulateConfig
from surmin.experiments.files import write_json, write_table
from surmin.experiments.runs.folder import claimed, default_folder
from surmin.experiments.runs.metrics import Row
from surmin.experiments.simulated.outcomes import LinkCell, Outcome, by_place, compare, eligible, outcomes
from surmin.experiments.simulated.runs import MeasuredRun, Measuring
from surmin.plots.breakeven import draw_breakeven
from surmin.plots.run import describe
from surmin.plots.tables import Table
from surmin.simulation.calibration import measure_overheads
from surmin.simulation.operations import Overheads

COLUMNS = (
    "stages", "extrapolated", "latency_ms", "rate_mbit", "method", "lr", "batch_size", "schedule", "microbatches",
    "inner_steps", "measured_stages", "rounds", "forward_waves", "messages", "megabytes", "seconds", "best_of_method",
    "over_best_other",
)  # fmt: skip


def simulate(config: SimulateConfig, out: Path | None) -> int:
    """Train, simulate, write breakeven.csv and breakeven.png, and print which method wins where."""
    config.check()
    path = out or default_folder("simulate", config.data)
    with claimed(path):
        return _fill(path, config)


def _fill(path: Path, config: SimulateConfig) -> int:
    overheads = measure_overheads()
    found = _simulate(config, _train(config), overheads)
    if not found:
        _warn("no method reaches the loss: nothing to simulate; raise --rounds or --target-loss")
        return USER_ERROR
    if config.stages_without_1f1b:
        too_many = ", ".join(f"{count:,}" for count in config.stages_without_1f1b)
        _warn(f"1f1b needs a micro-batch for every stage: left out with {too_many} stages; or raise --microbatches")
    cells = compare(config, found)
    write_json(path / "config.json", document(config, **_costs(overheads)))
    write_rows(path / "breakeven.csv", found)
    panels = [list(own) for _, own in groupby(cells, lambda cell: cell.stages)]
    draw_breakeven(
        path / "breakeven.png", config.method_names[0], describe(config.experiment), panels, config.target_loss
    )
    print_table(cells_table(cells))
    print("M: micro-batches; N: inner steps; batch: samples of a mini-batch")
    print(summary(config.method_names[0], cells))
    print(f"written: {path / 'breakeven.csv'}, {path / 'breakeven.png'}")
    return SUCCESS


def write_rows(path: Path, found: Sequence[Outcome]) -> None:
    """Replace `breakeven.csv`: one line per setting and kind of links."""
    counted = eligible(found)
    least = {place: _least(here) for place, here in by_place(counted).items()}
    rows = []
    for item in counted:
        own = least[item.place][item.run.method]
        others = [seconds for method, seconds in least[item.place].items() if method != item.run.method]
        run, trained = item.run, item.run.trained
        values = (
            item.stages, "yes" if item.is_stretched else "no", f"{1e3 * item.latency:g}", f"{item.rate / 1e6:g}",
            run.method, run.lr, run.batch_size, item.schedule, run.microbatches, run.inner_steps, run.workers,
            trained.rounds, trained.forward_waves, round(item.messages), f"{item.bytes / 1e6:.6g}",
            f"{item.seconds:.6g}", "yes" if item.seconds == own else "no",
            f"{item.seconds / min(others):.4g}" if others else None,
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_table(path, COLUMNS, rows)


def cells_table(cells: Sequence[LinkCell]) -> Table:
    """The best setting of the method beside the best other, by stages, rate and latency."""
    headings = ("stages", "Mbit/s", "latency, ms", "its best", "seconds", "best other", "seconds", "ratio")
    rows = [
        (
            f"{cell.stages:,}", f"{cell.rate / 1e6:g}", f"{1e3 * cell.latency:g}", *_best(cell.own),
            *_best(cell.other), f"{cell.ratio:.3g}" if cell.own and cell.other else "–",
        )
        for cell in cells
    ]  # fmt: skip
    return Table(headings, rows, numbers_from=len(headings))


def summary(method: str, cells: Sequence[LinkCell]) -> str:
    """In how many of the cells where any method reaches the loss this one wins, and where it loses most; one line."""
    reached = [cell for cell in cells if cell.own or cell.other]
    won, missed = sum(cell.ratio < 1 for cell in reached), sum(cell.own is None for cell in reached)
    lost = [cell for cell in reached if cell.own and cell.ratio >= 1]
    text = f"{method} is faster in {won} of {len(reached)} cells"
    if missed:
        text += f", does not reach the loss in {missed}"
    if not lost:
        return text
    worst = max(lost, key=lambda cell: cell.ratio)
    where = f"{worst.stages:,} stages over {1e3 * worst.latency:g} ms and {worst.rate / 1e6:g} Mbit/s"
    return f"{text} and loses most with {where}: {worst.ratio:.3g} times the seconds of the best other"


def _train(config: SimulateConfig) -> list[MeasuredRun]:
    with RoundProgress() as progress:

        def tell(name: str, rounds: int, loss: float) -> None:
            progress.show(name, config.rounds, Row(rounds, loss, None))

        return list(Measuring(config, tell, _warn).runs())


def _simulate(config: SimulateConfig, runs: Sequence[MeasuredRun], overheads: Overheads) -> list[Outcome]:
    found: list[Outcome] = []
    with terminal_bar() as bar:
        for run in bar.track(runs, description="simulating"):
            found += outcomes(config, run, overheads)
    return found


def _best(found: Outcome | None) -> tuple[str, str]:
    return ("not reached", "–") if found is None else (found.label, f"{found.seconds:.3g}")


def _least(here: Sequence[Outcome]) -> dict[str, float]:
    """The fewest seconds of every method."""
    methods = {item.run.method for item in here}
    return {method: min(item.seconds for item in here if item.run.method == method) for method in methods}


def _costs(overheads: Overheads) -> dict[str, float]:
    return {"message_seconds": overheads.message, "byte_seconds": overheads.byte}


def _warn(text: str) -> None:
    print(f"surmin simulate: {text}", file=sys.stderr)
