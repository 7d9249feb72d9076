"""Seconds and bytes to a training loss over slow links: `sm` against Adam, L-BFGS and GD + Armijo, 4 workers.

The network and data of `rounds`: 8 layers × 64 on MNIST's first 5,000, seed 1, in full batches and, for Adam,
mini-batches too. How many rounds a method needs is counted in one process, where the trajectory is the same. Over the
links `sm` is run to the end. The rounds of Adam and the evaluations of L-BFGS all cost the same: some are timed, and
their median multiplied by the number needed (the target cell's Adam is also run to the end, as a check on that).
Processor times are kept too: they tell how fast the machine was, which is not the same at every hour.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.pyplot import subplots

from benchmarks.harness import Result, Settings, Table, Target, number
from benchmarks.links.answers import answers_of
from benchmarks.links.entries import FAR, Entry, Need, median_entry, read_answers
from benchmarks.links.laboratory import PROJECT_ROOT, Laboratory
from benchmarks.links.racer import Task
from benchmarks.links.relay import Log
from benchmarks.problems import Problem, batches, mnist_mlp
from surmin import CrossEntropy, partition
from surmin.launch.worker import RENDEZVOUS_VARIABLE
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.plots.breakeven import ink

WORKERS, LAYERS, SEED = 4, 8, 1
LATENCIES, RATES = (1e-4, 0.01, 0.05, 0.1), (1e9, 1e8, 2e7)
GOAL_CELL = (0.05, 1e8)
ADAM_RATES = (1e-3, 3e-3, 5e-3, 1e-2, 2e-2)
MINI_BATCHES = (1000, 2500)
"""Of Adam; batches of 500 need more updates and more bytes than those of 1,000."""
ROUND_LIMIT = {"adam": 400, "lbfgs": 1000, "gd-armijo": 300, "sm": 60}
UPDATE_LIMIT = 800
"""Of Adam on mini-batches."""
TIMED = {"adam": 4, "lbfgs": 16}
"""Rounds over slow links; one of L-BFGS is an evaluation or a few, so short that three of them tell little."""
TIMED_OVER_QUICK = {**TIMED, "adam": 16}
"""Where Adam's rounds are short too. All of those cost the same; L-BFGS makes more evaluations in the early ones."""
TIMED_OF_TORCHS = 4
"""Rounds on torch's own schedules, whose messages cost much over links of every kind."""
TIMED_OF_MINI_BATCHES = 8
RUNS_OVER_QUICK = 5
"""Of every task: there workers wait for processors more than for links, and single runs vary by a fifth."""
QUICK_LATENCY, QUICK_RATE = 0.01, 1e8
SCHEDULES = (
    *(("posted", count) for count in (1, 8, 20)),
    *(("gpipe", count) for count in (1, 8, 20)),
    *(("1f1b", count) for count in (4, 8, 20)),
)
"""Of Adam, with numbers of micro-batches; 1F1B needs as many as there are workers."""
LBFGS_SCHEDULES = (("posted", 1), ("posted", 8), ("posted", 20), ("gpipe", 1), ("gpipe", 20), ("1f1b", 4))
MINI_BATCH_SCHEDULES = (("posted", 4), ("posted", 20), ("1f1b", 4))
SM_CHOICES: tuple[tuple[dict[str, Any], int], ...] = (
    ({"preset": "links"}, 20),
    ({"wire": "int8"}, 20),
    ({"preset": "trips", "wire": "int8"}, 8),
)
"""Options and micro-batches."""
RACE_SECONDS = 1800


def run(settings: Settings) -> Result:
    """Every cell of the table, the target's alone in a quick run."""
    problem = mnist_mlp(Settings(quick=False, device=settings.device), LAYERS)
    settings.note("rounds that each method needs, in one process")
    needs = {name: _need(problem, name) for name in ("adam", "lbfgs", "gd-armijo")}
    needs |= {f"adam {batch}": _need_of_updates(problem, batch) for batch in MINI_BATCHES}
    wanted = [GOAL_CELL] if settings.quick else [(latency, rate) for rate in RATES for latency in LATENCIES]
    return result_of(needs, race_cells(settings, needs, wanted))


def race_cells(
    settings: Settings, needs: Mapping[str, Need], wanted: Sequence[tuple[float, float]]
) -> list[dict[str, Any]]:
    """Entries over links of each latency and rate, what the relay did, and when."""
    cells = []
    with Laboratory(WORKERS, *wanted[0]) as laboratory:
        for latency, rate in wanted:
            settings.note(f"{1e3 * latency:g} ms, {rate / 1e6:g} Mbit/s")
            laboratory.set(latency, rate)
            date = datetime.now(UTC).isoformat(timespec="seconds")
            tasks = tasks_of(needs, TIMED_OVER_QUICK if is_quick(latency, rate) else TIMED)
            if (latency, rate) == GOAL_CELL and not settings.quick:
                tasks.append(Task("adam", needs["adam"].options, 20, "posted", int(needs["adam"].far), seed=SEED))
            entries = median_entries(laboratory, tasks, needs, RUNS_OVER_QUICK if is_quick(latency, rate) else 1)
            cells.append(_figures(latency, rate, entries, laboratory.take_log(), date))
            settings.note(f"sm over the best other: {cells[-1]['ratio']:.3f}")
    return cells


def result_of(needs: Mapping[str, Need], cells: Sequence[dict[str, Any]]) -> Result:
    """Tables, the picture and the target of cells as `race_cells` gives them and a saved race has them."""
    entries = {(cell["latency"], cell["rate"]): [Entry(**entry) for entry in cell["entries"]] for cell in cells}
    tables = [
        _cell_table(*key, own, Log(**cell["relay"])) for (key, own), cell in zip(entries.items(), cells, strict=True)
    ]
    return Result(
        [*tables, _overview(entries)],
        [Target("sm's seconds to 1e-3 over the best other's, 50 ms, 100 Mbit/s", _ratio(entries[GOAL_CELL]), 1 / 6)],
        {"needs": {name: asdict(need) for name, need in needs.items()}, "cells": list(cells)},
        draw(entries),
    )


def draw(entries: Mapping[tuple[float, float], Sequence[Entry]]) -> Figure:
    """Sm's time over the best other's, by latency and rate; purple where sm is faster, orange where it loses."""
    ratios = {cell: _ratio(own) for cell, own in entries.items()}
    settings = dict.fromkeys(_best(own, sm=True).setting for own in entries.values())
    latencies, rates = (sorted({key[axis] for key in ratios}) for axis in (0, 1))
    figure, axes = subplots(figsize=(6.4, 4.2), layout="constrained")
    values = np.log2([[ratios.get((latency, rate), math.nan) for latency in latencies] for rate in rates])
    shown = axes.imshow(values, cmap="PuOr_r", vmin=-4, vmax=4, aspect="auto", origin="lower")
    for row, rate in enumerate(rates):
        for column, latency in enumerate(latencies):
            if (latency, rate) in ratios:
                color = ink(shown.to_rgba(values[row, column]))
                axes.text(column, row, f"{ratios[latency, rate]:.2f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(latencies)), [f"{1e3 * latency:g}" for latency in latencies])
    axes.set_yticks(range(len(rates)), [f"{rate / 1e6:g}" for rate in rates])
    axes.set(xlabel="latency of a link, one way (ms)", ylabel="rate of a link (Mbit/s)")
    title = (
        f"Seconds to a loss of {FAR:g}: sm over the best other method",
        f"{LAYERS} layers × 64 on MNIST's first 5,000 images, {WORKERS} workers",
        f"sm at its best: {' or '.join(settings)}",
    )
    figure.suptitle("\n".join(title), fontsize=10)
    bar = figure.colorbar(shown, ticks=range(-4, 5))
    bar.ax.set_yticklabels(["1/16", "1/8", "1/4", "1/2", "1", "2", "4", "8", "16"])
    return figure


def _need(problem: Problem, method: str) -> Need:
    """By the best learning rate to 1e-3, for Adam."""
    choices: list[dict[str, Any]] = [{"lr": lr} for lr in ADAM_RATES] if method == "adam" else [{}]
    if method == "lbfgs":
        choices = [{"inner_steps": 1}]
    return min((count_rounds(problem, method, options) for options in choices), key=lambda need: (need.far, need.near))


def count_rounds(problem: Problem, method: str, options: dict[str, Any], seed: int = SEED) -> Need:
    """Train in one process; for L-BFGS a round is an evaluation."""
    pipeline = InProcessPipeline(partition(problem.network(seed), WORKERS), CrossEntropy())
    trained = build_method(method, pipeline, seed=seed, **options)
    losses: dict[int, float] = {}
    for _ in range(ROUND_LIMIT[method]):
        report = trained.step(problem.inputs, problem.targets)
        after = pipeline.traffic.forward_waves if method == "lbfgs" else pipeline.traffic.forward_waves - 1
        losses[after] = report.new_loss if math.isfinite(report.new_loss) else report.loss
        if losses[after] <= FAR or not math.isfinite(losses[after]):
            break
    return Need.of(losses, options)


def _need_of_updates(problem: Problem, batch: int) -> Need:
    """Of Adam on mini-batches, by the best learning rate to 1e-3."""
    choices = [count_updates(problem, {"lr": lr}, batch) for lr in ADAM_RATES]
    return min(choices, key=lambda need: (need.far, need.near))


def count_updates(problem: Problem, options: dict[str, Any], batch: int, seed: int = SEED) -> Need:
    """Train on mini-batches in one process, and take the loss on all samples after every update."""
    model = problem.network(seed)
    trained = build_method("adam", InProcessPipeline(partition(model, WORKERS), CrossEntropy()), seed=seed, **options)
    losses: dict[int, float] = {}
    for count, some in enumerate(islice(batches(problem.inputs, problem.targets, batch, seed), UPDATE_LIMIT), start=1):
        trained.step(*some)
        losses[count] = problem.loss(model)
        if losses[count] <= FAR or not math.isfinite(losses[count]):
            break
    return Need.of(losses, options)


def is_quick(latency: float, rate: float) -> bool:
    """Whether rounds over such links are short, so that more of them are timed, and several runs."""
    return latency <= QUICK_LATENCY and rate >= QUICK_RATE


def tasks_of(needs: Mapping[str, Need], timed: Mapping[str, int] = TIMED) -> list[Task]:
    """What is run over links of every kind; of all but `sm` so many rounds."""
    tasks = [Task("sm", options, count, "posted", ROUND_LIMIT["sm"], FAR, SEED) for options, count in SM_CHOICES]
    for name, schedules in (("adam", SCHEDULES), ("lbfgs", LBFGS_SCHEDULES)):
        for schedule, count in schedules:
            rounds = timed[name] if schedule == "posted" else TIMED_OF_TORCHS
            tasks.append(Task(name, needs[name].options, count, schedule, rounds, seed=SEED))
    for batch in MINI_BATCHES:
        for schedule, count in MINI_BATCH_SCHEDULES:
            options = needs[f"adam {batch}"].options
            tasks.append(Task("adam", options, count, schedule, TIMED_OF_MINI_BATCHES, seed=SEED, batch=batch))
    return tasks


class Workers(Protocol):
    """What starts the workers of a race: a laboratory, or this machine alone."""

    @property
    def workers(self) -> int:
        """How many there are."""

    def popen(
        self, rank: int, command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start one."""


def run_tasks(laboratory: Workers, tasks: Sequence[Task]) -> list[list[dict[str, Any]]]:
    """For every task what each worker answered."""
    words = json.dumps([asdict(task) for task in tasks])
    with tempfile.TemporaryDirectory() as folder:
        environment = {"OMP_NUM_THREADS": "1", RENDEZVOUS_VARIABLE: str(Path(folder) / "rendezvous")}
        command = [sys.executable, "-m", "benchmarks.links.racer", words]
        workers = [
            laboratory.popen(rank, command, environment, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)
            for rank in range(laboratory.workers)
        ]
        said = answers_of(workers, RACE_SECONDS)
    by_worker = [[json.loads(line) for line in text.splitlines()] for text in said]
    return [list(answers) for answers in zip(*by_worker, strict=True)]


def median_entries(laboratory: Workers, tasks: Sequence[Task], needs: Mapping[str, Need], repeats: int) -> list[Entry]:
    """Of every task the medians of some runs, each time and the processors' by itself; all tasks run in turns."""
    runs = [run_tasks(laboratory, tasks) for _ in range(repeats)]
    return [
        median_entry([read_answers(task, answer, needs) for answer in answers])
        for task, *answers in zip(tasks, *runs, strict=True)
    ]


def _best(entries: Sequence[Entry], *, sm: bool) -> Entry:
    return min((entry for entry in entries if (entry.method == "sm") == sm), key=lambda entry: entry.far)


def _ratio(entries: Sequence[Entry]) -> float:
    return _best(entries, sm=True).far / _best(entries, sm=False).far


def _figures(latency: float, rate: float, entries: Sequence[Entry], log: Log, date: str) -> dict[str, Any]:
    return {
        "latency": latency,
        "rate": rate,
        "entries": [asdict(entry) for entry in entries],
        "ratio": _ratio(entries),
        "relay": asdict(log),
        "date": date,
    }


def _cell_table(latency: float, rate: float, entries: Sequence[Entry], log: Log) -> Table:
    rows = [
        (
            entry.method,
            entry.setting,
            number(entry.near, 1),
            number(entry.far, 1),
            number(entry.megabytes),
            number(entry.rounds),
            number(entry.waves),
        )
        for entry in sorted(entries, key=lambda entry: entry.far)
    ]
    lateness = f"the relay was at most {1e3 * log.most_late:.1f} ms late and dropped {log.dropped} packets"
    title = f"{1e3 * latency:g} ms, {rate / 1e6:g} Mbit/s; {lateness}"
    return Table(title, ("method", "setting", "s to 1e-2", "s to 1e-3", "MB", "rounds", "waves"), rows)


def _overview(entries: dict[tuple[float, float], list[Entry]]) -> Table:
    rows = []
    for (latency, rate), own in entries.items():
        sm, other = _best(own, sm=True), _best(own, sm=False)
        rows.append(
            (
                f"{1e3 * latency:g} ms",
                f"{rate / 1e6:g}",
                number(sm.far, 1),
                sm.setting,
                number(other.far, 1),
                f"{other.method}, {other.setting}",
                f"{sm.far / other.far:.3f}",
            )
        )
    return Table(
        "Seconds to 1e-3, each at its best setting",
        ("latency", "Mbit/s", "sm", "its setting", "best other", "which", "sm / other"),
        rows,
    )
