"""The kind of link that a promise was made for, 50 ms and 100 Mbit/s, over several seeds: `sm` against Adam.

Both presets for slow links run to the end. Adam takes the full batch or mini-batches, for every seed whichever is the
faster, at the best of three rates (`sm` has the same settings for all seeds). Its rounds are counted in one process;
all cost the same, and the median of some, over the links, is multiplied. On the full batch its schedule and
micro-batches are those that won in `links.race`, on mini-batches the best of those that were raced.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

from benchmarks.harness import Result, Settings, Table, Target, median, number
from benchmarks.links.entries import FAR, Entry, read_answers
from benchmarks.links.laboratory import Laboratory
from benchmarks.links.race import (
    GOAL_CELL,
    MINI_BATCH_SCHEDULES,
    MINI_BATCHES,
    ROUND_LIMIT,
    WORKERS,
    count_rounds,
    count_updates,
    run_tasks,
)
from benchmarks.links.racer import Task
from benchmarks.problems import Problem, mnist_mlp

SEEDS, MICROBATCHES, TIMED = 7, 20, 8
RATES = (3e-3, 5e-3, 1e-2)
SM: dict[str, tuple[dict[str, Any], int]] = {
    "links": ({"preset": "links"}, MICROBATCHES),
    "trips": ({"preset": "trips", "wire": "int8"}, 8),
}
ADAM: dict[int, tuple[tuple[str, int], ...]] = {
    0: (("posted", MICROBATCHES),),
    **dict.fromkeys(MINI_BATCHES, MINI_BATCH_SCHEDULES),
}
"""Schedules and micro-batches by the samples in a batch, 0 for all."""
PER_PRESET = ("s to 1e-3", "rounds", "waves", "MB", "over Adam")
COLUMNS = (
    *("seed", *(f"{preset}: {name}" for preset in SM for name in PER_PRESET)),
    *("Adam's batch", "Adam's rounds", "Adam, s", "full batch: rounds", "full batch, s"),
)


def run(settings: Settings) -> Result:
    """One row a seed."""
    problem = mnist_mlp(Settings(quick=False, device=settings.device), layers=8)
    seeds = list(settings.seeds(SEEDS))
    settings.note("rounds of Adam, in one process")
    needs = [_needs(problem, seed) for seed in seeds]
    tasks = [
        Task("sm", options, parts, "posted", ROUND_LIMIT["sm"], FAR, seed)
        for seed in seeds
        for options, parts in SM.values()
    ]
    timed = [
        Task("adam", {"lr": RATES[-1]}, parts, schedule, TIMED, seed=seeds[0], batch=batch)
        for batch, choices in ADAM.items()
        for schedule, parts in choices
    ]
    settings.note("over the links")
    with Laboratory(WORKERS, *GOAL_CELL) as laboratory:
        answers = run_tasks(laboratory, [*tasks, *timed])
        log = laboratory.take_log()
    each = _seconds_a_round(timed, answers[len(tasks) :])
    adams = [{batch: need * each[batch] for batch, need in own.items()} for own in needs]
    entries = [read_answers(task, own, {}) for task, own in zip(tasks, answers, strict=False)]
    by_preset = {preset: entries[place :: len(SM)] for place, preset in enumerate(SM)}
    rows = [
        (
            f"{seed}",
            *chain(*(_cells(own[place], min(adam.values())) for own in by_preset.values())),
            *_cells_of_adam(need, adam),
        )
        for place, (seed, need, adam) in enumerate(zip(seeds, needs, adams, strict=True))
    ]
    targets = [
        Target(
            f"{preset}: seconds to 1e-3 over Adam's, median",
            median([entry.far / min(adam.values()) for entry, adam in zip(own, adams, strict=True)]),
            limit,
        )
        for (preset, own), limit in zip(by_preset.items(), (1 / 6, 1 / 12), strict=True)
    ]
    lateness = f"the relay was at most {1e3 * log.most_late:.1f} ms late"
    return Result(
        [Table(f"50 ms, 100 Mbit/s, two presets against Adam; {lateness}", COLUMNS, rows)],
        targets,
        {"seeds": [dict(zip(COLUMNS, row, strict=True)) for row in rows], "adam's seconds a round": each},
    )


def _needs(problem: Problem, seed: int) -> dict[int, float]:
    """Adam's rounds by the samples in a batch."""
    whole = {0: min(count_rounds(problem, "adam", {"lr": lr}, seed).far for lr in RATES)}
    return whole | {
        batch: min(count_updates(problem, {"lr": lr}, batch, seed).far for lr in RATES) for batch in MINI_BATCHES
    }


def _seconds_a_round(timed: Sequence[Task], answers: Sequence[Sequence[Mapping[str, Any]]]) -> dict[int, float]:
    """By the samples in a batch, on the best schedule."""
    found: dict[int, list[float]] = defaultdict(list)
    for task, own in zip(timed, answers, strict=True):
        found[task.batch].append(median([after - before for before, after in pairwise(own[-1]["ends"])]))
    return {batch: min(seconds) for batch, seconds in found.items()}


def _cells(entry: Entry, adam: float) -> tuple[str, ...]:
    """One preset's part of a row, beside so many seconds of Adam."""
    counts = (number(entry.rounds), number(entry.waves), number(entry.megabytes))
    return number(entry.far, 1), *counts, f"{entry.far / adam:.3f}"


def _cells_of_adam(needs: Mapping[int, float], seconds: Mapping[int, float]) -> tuple[str, ...]:
    """Adam's part of a row."""
    best = min(seconds, key=lambda batch: seconds[batch])
    batch = number(best) if best else "all"
    return batch, number(needs[best]), number(seconds[best], 1), number(needs[0]), number(seconds[0], 1)
