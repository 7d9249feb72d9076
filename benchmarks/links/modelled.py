"""Tasks of a race as `surmin simulate` models them: recorded in one process, for the machine that the race met.

How fast that was, and what a message cost it, are found from the processor time that each task took: no time that
passed is fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise

import numpy as np
from scipy.optimize import nnls

from benchmarks.harness import median
from benchmarks.links.entries import setting_of
from benchmarks.links.race import WORKERS
from benchmarks.links.racer import Task
from benchmarks.problems import Problem
from surmin import CrossEntropy, partition
from surmin.methods.base import Method
from surmin.methods.registry import build_method
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.simulation.operations import NO_OVERHEADS, Operation, Overheads, Send, Work, expand
from surmin.simulation.seconds import RoundKind, Setting, group
from surmin.simulation.team import Recorded, RecordedTeam

PASSES = 3
"""Recordings of every task: one that a busy neighbour slows for a minute tells little."""


@dataclass(frozen=True)
class Modelled:
    """A task, as recorded in one process.

    Attributes:
        task: what was run.
        rounds: that were recorded.
    """

    task: Task
    rounds: Sequence[Recorded]

    @property
    def name(self) -> tuple[str, str]:
        """Method and setting, as an entry of the race has them."""
        return self.task.method, setting_of(self.task)

    @property
    def is_torchs(self) -> bool:
        """By one of torch's schedules, whose messages are torch's own."""
        return self.task.schedule != "posted"

    @cached_property
    def kinds(self) -> list[RoundKind]:
        """Of the rounds that count, by the task's schedule."""
        counted = self.rounds if self.task.is_whole else self.rounds[1:]
        return [kind.scheduled(self.task.schedule) for kind in group(counted)]

    def seconds(self, setting: Setting, rounds: float) -> float:
        """Of so many rounds of `sm`, mean ones, or median evaluations of others, as the race reckons them."""
        if self.task.is_whole:
            return rounds * float(setting.seconds(self.kinds)) / len(self.rounds)
        return rounds * median([float(setting.seconds([kind])) for kind in self._evaluations])

    def processor(self, overheads: Overheads) -> float:
        """Seconds of all workers' processors in a mean round."""
        work = 0.0
        for kind in self.kinds:
            for operation in chain.from_iterable(expand(kind.programs, overheads)):
                if isinstance(operation, Work):
                    work += kind.count * operation.seconds
                elif isinstance(operation, Send):
                    work += kind.count * overheads.byte * operation.bytes  # of who reads them
        return work / sum(kind.count for kind in self.kinds)

    def slowed(self, slowness: float) -> "Modelled":
        """The same, where all work lasts so many times as long."""
        rounds = [
            replace(own, programs=[[_slowed(operation, slowness) for operation in program] for program in own.programs])
            for own in self.rounds
        ]
        return replace(self, rounds=rounds)

    @cached_property
    def _evaluations(self) -> list[RoundKind]:
        """Every round that counts as the part of it that is one evaluation's."""
        return [
            RoundKind(own.programs, 1 / max(1, own.forward_waves - before.forward_waves)).scheduled(self.task.schedule)
            for before, own in pairwise(self.rounds)
        ]


def record(task: Task, problem: Problem) -> Modelled:
    """Rounds of a task in one process, after as many undone ones as a worker of the race has."""
    team = RecordedTeam(partition(problem.network(task.seed), WORKERS), CrossEntropy(), task.microbatches)

    def build(pipeline: WorkerPipeline) -> Method:
        return build_method(task.method, pipeline, seed=task.seed, **task.options)

    data = task.data(problem)
    team.warm_up(build, *data[0])
    methods = team.build(build)
    rounds: list[Recorded] = []
    for batch in data:
        rounds.append(team.step(methods, *batch))
        if rounds[-1].end_loss <= task.until:
            break
    return Modelled(task, rounds)


def record_all(tasks: Sequence[Task], problem: Problem) -> list[Modelled]:
    """Every task in turn, some times over, and of each the recording with the median work."""
    passes = [[record(task, problem) for task in tasks] for _ in range(PASSES)]
    return [
        sorted(same, key=lambda own: own.processor(NO_OVERHEADS))[PASSES // 2] for same in zip(*passes, strict=True)
    ]


@dataclass(frozen=True)
class Machine:
    """Processors as a race met them.

    Attributes:
        slowness: how many times as long as when it was recorded the same work took.
        message: seconds of a message of our engine, at each end.
        torchs_message: of one of torch's schedules.
        byte: of every byte of a message.
    """

    slowness: float
    message: float
    torchs_message: float
    byte: float

    def overheads(self, own: Modelled) -> Overheads:
        """Of a task's messages."""
        return Overheads(self.torchs_message if own.is_torchs else self.message, self.byte)

    def seconds(self, own: Modelled, setting: Setting, rounds: float) -> float:
        """Of so many rounds of a task, on this machine."""
        return own.slowed(self.slowness).seconds(replace(setting, overheads=self.overheads(own)), rounds)


def fit_machine(modelled: Sequence[Modelled], taken: Sequence[float]) -> Machine:
    """The machine on which tasks would have taken the processor times that they took.

    Least squares, with nothing below 0, of processor times on recorded work, messages and bytes.

    Args:
        modelled: tasks; each counts by its share: what is fitted is relative to its processor time.
        taken: seconds of all workers' processors in a mean round of each.
    """
    rows = []
    for own, seconds in zip(modelled, taken, strict=True):
        work = own.processor(NO_OVERHEADS)
        messages, bytes_ = (own.processor(one) - work for one in (Overheads(message=1.0), Overheads(byte=1.0)))
        rows.append(np.array([work, messages * (not own.is_torchs), messages * own.is_torchs, bytes_]) / seconds)
    found, _ = nnls(np.array(rows), np.ones(len(rows)))
    return Machine(*map(float, found))


def _slowed(operation: Operation, slowness: float) -> Operation:
    return operation._replace(seconds=operation.seconds * slowness) if isinstance(operation, Work) else operation
