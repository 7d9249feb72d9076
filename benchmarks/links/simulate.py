"""The model behind `surmin simulate` against what was measured: all cells of `links.race`, and workers of this machine.

Rounds are recorded in one process and their time is computed for the race's links. All four workers, and the relay
that carries their packets, share this machine's cores, and so they do in the model. What a message costs a worker's
processor beyond the recorded work is measured, from processor times alone, where the links hardly matter (0.1 ms and
1 Gbit/s): two numbers for all methods and cells, and one for the relay. No time of the race is fitted.

Over the two fastest kinds of links, and on workers of this machine, most of it is the processors' time, and those of a
shared machine are not as fast at every hour. There the model is held against runs beside it, the median of three.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Result, Settings, Table, Target, median, number
from benchmarks.links.laboratory import Laboratory
from benchmarks.links.pages import keep_memory
from benchmarks.links.race import (
    FAR,
    ROUND_LIMIT,
    SCHEDULES,
    SEED,
    SM_CHOICES,
    SM_MICROBATCHES,
    WORKERS,
    run_tasks,
)  # fmt: skip
from benchmarks.links.race import (
    TIMED as RACED,
)
from benchmarks.links.racer import Task
from benchmarks.links.relay import Log, packet_size
from benchmarks.problems import Problem, mnist_mlp
from surmin import CrossEntropy, partition
from surmin.methods.registry import build_method
from surmin.simulation.operations import NO_OVERHEADS, Overheads, Send, Work, expand
from surmin.simulation.seconds import RoundKind, Setting, group
from surmin.simulation.team import Recorded, RecordedTeam
from surmin.simulation.wires import Links

FAST = (1e-4, 1e9)
"""Links over which processors are what takes time: latency and rate."""
PROCESSORS = (FAST, (1e-2, 1e9))
"""Kinds of links of the race over which they are most of it."""
LOOPBACK = Links(5e-5, 1e11, 65_536)
"""What this machine's own network adds to its processors' time: next to nothing."""
RACE = Path(__file__).resolve().parents[1] / "results" / "saved" / "links.race.json"
TIMED = 8
REPEATS = 3
WITHIN = 0.2
Answers = Sequence[Sequence[Mapping[str, Any]]]
"""Of a run, by task and worker."""


@dataclass(frozen=True)
class Modelled:
    """A task of the race, as recorded in one process.

    Attributes:
        task: what was run.
        rounds: that were recorded.
        need: rounds to the loss (of L-BFGS evaluations); those recorded for `sm`, which is run to the end.
    """

    task: Task
    rounds: Sequence[Recorded]
    need: float

    @cached_property
    def kinds(self) -> list[RoundKind]:
        """By the task's schedule."""
        return [kind.scheduled(self.task.schedule) for kind in group([own.programs for own in self._timed])]

    @property
    def _timed(self) -> Sequence[Recorded]:
        """All rounds of a run to the end; of others the race leaves out the first."""
        return self.rounds if self.task.method == "sm" else self.rounds[1:]

    def seconds(self, setting: Setting, rounds: int) -> float:
        """To the loss, as the race reckons it: `sm` to the end, others by the median evaluation times their need.

        Args:
            setting: where the workers run.
            rounds: that were run there, the first of which does not count.
        """
        if self.task.method == "sm":
            return float(setting.seconds(self.kinds))
        return self.need * median([float(setting.seconds([kind])) for kind in self._evaluations[: rounds - 1]])

    @cached_property
    def _evaluations(self) -> list[RoundKind]:
        """Every timed round as the part of it that is one evaluation's."""
        return [
            RoundKind(own.programs, 1 / max(1, own.forward_waves - before.forward_waves)).scheduled(self.task.schedule)
            for before, own in pairwise(self.rounds)
        ]

    def processor(self, overheads: Overheads) -> float:
        """Seconds of all workers' processors in a median round."""
        work = 0.0
        for kind in self.kinds:
            for operation in chain.from_iterable(expand(kind.programs, overheads)):
                if isinstance(operation, Work):
                    work += kind.count * operation.seconds
                elif isinstance(operation, Send):
                    work += kind.count * overheads.byte * operation.bytes  # of who reads them
        return work / len(self._timed)


class LocalWorkers:
    """Processes of this machine over its own network, started as those of a laboratory are."""

    workers = WORKERS

    def popen(
        self, rank: int, command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a worker."""
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORKERS, "LOCAL_WORLD_SIZE": WORKERS}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512", **{key: str(own) for key, own in ranks.items()}}
        return subprocess.Popen(command, env={**os.environ, **meeting, **(environment or {})}, **options)


def run(settings: Settings) -> Result:
    """Every entry of the saved race, and the same tasks on workers of this machine."""
    keep_memory()
    race = json.loads(RACE.read_text(encoding="utf-8"))
    problem = mnist_mlp(Settings(quick=False, device=settings.device), layers=8)
    settings.note("recording the rounds in one process")
    modelled = [record(task, problem, race["needs"]) for task in tasks_of(race["needs"])]
    settings.note("what messages cost, in the laboratory")
    runs: dict[tuple[float, float], list[Answers]] = {}
    logs: dict[tuple[float, float], Log] = {}
    with Laboratory(WORKERS, *FAST) as laboratory:
        for kind in PROCESSORS:
            laboratory.set(*kind)
            laboratory.take_log()
            runs[kind] = [run_tasks(laboratory, [own.task for own in modelled]) for _ in range(REPEATS)]
            logs[kind] = laboratory.take_log()
    messages, relay = fit_messages(modelled, runs[FAST]), relay_cost(logs[FAST])
    cores = float(os.cpu_count() or 1)
    rows, earlier = [], []
    for cell in race["cells"]:
        setting = Setting(Links(cell["latency"], cell["rate"], packet_size(cell["rate"])), messages, cores, relay)
        where = f"{1e3 * cell['latency']:g} ms", f"{cell['rate'] / 1e6:g}"
        raced = cell_rows(where, cell, modelled, setting)
        kind = cell["latency"], cell["rate"]
        if kind in runs:
            rows += beside((f"{where[0]}, beside", where[1]), modelled, runs[kind], setting)
            earlier += raced
        else:
            rows += raced
    settings.note("on workers of this machine")
    own_runs = [run_tasks(LocalWorkers(), [own.task for own in modelled]) for _ in range(REPEATS)]
    local = Setting(LOOPBACK, fit_messages(modelled, own_runs), cores)
    local_rows = beside(("workers of this machine", ""), modelled, own_runs, local)
    errors = {"race": [_error(row) for row in rows], "local": [_error(row) for row in local_rows]}
    costs = {"messages": messages, "messages on this machine": local.overheads, "relay": relay}
    return Result(
        [_table(rows), _table(local_rows), _table(earlier), _costs_table(costs)],
        [
            Target("largest error, race", max(map(abs, errors["race"])), WITHIN),
            Target("median error, race", median([abs(error) for error in errors["race"]]), WITHIN),
            Target("largest error, workers of this machine", max(map(abs, errors["local"])), WITHIN),
        ],
        {
            "costs": {name: {"message": cost.message, "byte": cost.byte} for name, cost in costs.items()},
            "rows": [dict(zip(COLUMNS, (*row, _error(row)), strict=True)) for row in [*rows, *local_rows, *earlier]],
        },
    )


COLUMNS = ("latency", "Mbit/s", "method", "setting", "model, s", "measured, s", "error")
Row = tuple[str, str, str, str, float, float]


def tasks_of(needs: Mapping[str, Any]) -> list[Task]:
    """What the race ran in every cell."""
    tasks = [Task("sm", options, SM_MICROBATCHES, "posted", ROUND_LIMIT["sm"], FAR, SEED) for options in SM_CHOICES]
    tasks += [
        Task("adam", needs["adam"]["options"], count, schedule, TIMED, seed=SEED) for schedule, count in SCHEDULES
    ]
    return [*tasks, Task("lbfgs", needs["lbfgs"]["options"], 20, "posted", TIMED, seed=SEED)]


def record(task: Task, problem: Problem, needs: Mapping[str, Any]) -> Modelled:
    """The rounds of a task in one process, after as many undone ones as a worker of the race has."""
    team = RecordedTeam(partition(problem.network(task.seed), WORKERS), CrossEntropy(), task.microbatches)

    def build(pipeline: Any) -> Any:
        return build_method(task.method, pipeline, task.options, task.seed)

    team.warm_up(build, problem.inputs, problem.targets)
    methods = team.build(build)
    rounds: list[Recorded] = []
    while len(rounds) < task.rounds and not (rounds and rounds[-1].end_loss <= task.until):
        rounds.append(team.step(methods, problem.inputs, problem.targets))
    need = len(rounds) if task.method == "sm" else needs[task.method]["far"]
    return Modelled(task, rounds, need)


def beside(
    where: tuple[str, str], modelled: Sequence[Modelled], runs: Sequence[Answers], setting: Setting
) -> list[Row]:
    """The model against the median of some runs."""
    rows = []
    for own, *answers in zip(modelled, *runs, strict=True):
        measured = median([measured_seconds(own, answer) for answer in answers])
        rows.append((*where, *_entry(own), own.seconds(setting, TIMED), measured))
    return rows


def fit_messages(modelled: Sequence[Modelled], runs: Sequence[Answers]) -> Overheads:
    """Least squares of the workers' processor time beyond the recorded work, on messages and bytes; neither below 0.

    Every task counts by its share: what is fitted is relative to its processor time.
    """
    rows, beyond = [], []
    for own, answer in ((own, answer) for run in runs for own, answer in zip(modelled, run, strict=True)):
        rounds = len(answer[0]["ends"])
        taken = sum(worker["processor"] for worker in answer) / rounds
        plain = own.processor(NO_OVERHEADS)
        counts = [own.processor(Overheads(message=1.0)) - plain, own.processor(Overheads(byte=1.0)) - plain]
        rows.append([count / taken for count in counts])
        beyond.append((taken - plain) / taken)
    matrix, right = np.array(rows), np.array(beyond)
    both, *_ = np.linalg.lstsq(matrix, right, rcond=None)
    if both.min() < 0:
        kept = int(both.argmax())
        both = np.zeros(2)
        both[kept] = max(0.0, matrix[:, kept] @ right / (matrix[:, kept] @ matrix[:, kept]))
    return Overheads(float(both[0]), float(both[1]))


def relay_cost(log: Log) -> Overheads:
    """Of the relay's processor time, by bytes."""
    return Overheads(byte=log.processor / max(1, log.bytes))


def cell_rows(
    where: tuple[str, str], cell: Mapping[str, Any], modelled: Sequence[Modelled], setting: Setting
) -> list[Row]:
    """Model and measurement of every entry of a cell of the race, those run to the end twice aside."""
    found = {_entry(own): own for own in modelled}
    entries = {(entry["method"], entry["setting"]): entry["far"] for entry in cell["entries"]}
    return [(*where, *name, found[name].seconds(setting, RACED), far) for name, far in entries.items() if name in found]


def measured_seconds(own: Modelled, answers: Sequence[Mapping[str, Any]]) -> float:
    """To the loss, as the race reckons it: `sm` as it ran, of the others the median round times what they need."""
    ends = [max(times) for times in zip(*(answer["ends"] for answer in answers), strict=True)]
    if own.task.method == "sm":
        return float(ends[-1])
    waves = answers[0]["waves"]
    each = [
        (after - before) / max(1, wave - last)
        for (before, after), (last, wave) in zip(pairwise(ends), pairwise(waves), strict=True)
    ]
    return own.need * median(each)


def _entry(own: Modelled) -> tuple[str, str]:
    """As the race names it."""
    task = own.task
    options = [f"{name} {value}" for name, value in task.options.items()]
    return task.method, ", ".join([task.schedule, f"{task.microbatches} micro-batches", *options])


def _error(row: Row) -> float:
    return row[4] / row[5] - 1


def _table(rows: Sequence[Row]) -> Table:
    written = [(*row[:4], number(row[4], 2), number(row[5], 2), f"{100 * _error(row):+.1f} %") for row in rows]
    return Table("Seconds to 1e-3: model and measurement", COLUMNS, written)


def _costs_table(costs: Mapping[str, Overheads]) -> Table:
    rows = [(name, number(1e6 * cost.message, 1), number(1e9 * cost.byte, 2)) for name, cost in costs.items()]
    return Table("Processor time at each end", ("of", "µs a message", "ns a byte"), rows)
