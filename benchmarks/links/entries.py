"""What a race found for one method over one kind of link, out of what its workers answered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.harness import median
from benchmarks.links.racer import Task

NEAR, FAR = 1e-2, 1e-3


@dataclass(frozen=True)
class Need:
    """Rounds (for L-BFGS evaluations) that a method needs in one process, infinite where it does not get there."""

    near: float
    far: float
    options: dict[str, Any]

    @classmethod
    def of(cls, losses: Mapping[int, float], options: dict[str, Any]) -> "Need":
        """By the losses after so many rounds, in order."""
        near, far = (
            next((rounds for rounds, loss in losses.items() if loss <= target), math.inf) for target in (NEAR, FAR)
        )
        return cls(near, far, options)


@dataclass(frozen=True)
class Entry:
    """One method as it was set up, over one kind of link.

    Attributes:
        method: its name.
        setting: options, schedule and micro-batches.
        near: seconds to a loss of 1e-2.
        far: seconds to 1e-3.
        megabytes: sent by all workers until 1e-3.
        rounds: to 1e-3.
        waves: forward waves to 1e-3.
        processor: seconds of all workers' processors in a round, the first left out where only some are timed.
    """

    method: str
    setting: str
    near: float
    far: float
    megabytes: float
    rounds: float
    waves: float
    processor: float

    @property
    def name(self) -> tuple[str, str]:
        """Tells it from the others over the same links."""
        return self.method, self.setting


def read_answers(task: Task, answers: Sequence[Mapping[str, Any]], needs: Mapping[str, Need]) -> Entry:
    """An entry out of what the workers answered; `sm` counts its own rounds, the others are multiplied."""
    ends = [max(times) for times in zip(*(answer["ends"] for answer in answers), strict=True)]
    sent, spent = (
        [sum(own) for own in zip(*(answer[name] for answer in answers), strict=True)] for name in ("bytes", "processor")
    )
    waves = answers[0]["waves"]
    setting = setting_of(task)
    if task.is_whole:
        losses = answers[0]["losses"]
        near, far = (next((r for r, loss in enumerate(losses) if loss <= target), None) for target in (NEAR, FAR))
        if far is None or near is None:
            return Entry(task.method, setting, *[math.inf] * 6)
        rounds = far + 1
        seconds = ends[near], ends[far]
        return Entry(task.method, setting, *seconds, sent[far] / 1e6, rounds, waves[far], spent[far] / rounds)
    need, processor = needs[task.need], (spent[-1] - spent[0]) / (len(spent) - 1)
    if len(ends) >= need.far and task.need == "adam":
        whole = int(need.far) - 1
        seconds, setting = (ends[int(need.near) - 1], ends[whole]), f"{setting}, run to the end"
        return Entry(task.method, setting, *seconds, sent[whole] / 1e6, need.far, waves[whole], processor)
    steps = [after - before for before, after in zip([0, *waves], waves, strict=False)]
    each = [(end - start) / max(1, count) for start, end, count in zip([0.0, *ends], ends, steps, strict=False)]
    typical, size = median(each[1:]), sent[-1] / max(1, waves[-1]) / 1e6
    seconds = need.near * typical, need.far * typical
    return Entry(task.method, setting, *seconds, need.far * size, need.far, need.far, processor)


def median_entry(entries: Sequence[Entry]) -> Entry:
    """Of runs of one task: the median of each of its times; all else is the first's."""
    near, far, processor = (
        median([getattr(entry, name) for entry in entries]) for name in ("near", "far", "processor")
    )
    return replace(entries[0], near=near, far=far, processor=processor)


def setting_of(task: Task) -> str:
    """Schedule, micro-batches and options, as an entry names them."""
    options = [f"{name} {value}" for name, value in task.options.items()]
    batch = [f"batches of {task.batch}"] if task.batch else []
    return ", ".join([task.schedule, *batch, f"{task.microbatches} micro-batches", *options])
