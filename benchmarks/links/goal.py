"""The kind of link that a promise was made for, 50 ms and 100 Mbit/s, over several seeds: `sm` against Adam.

Both presets for slow links run to the end. Adam's rounds are counted in one process, for every seed at the best of
three rates (`sm` has the same settings for all seeds); all cost the same, and the median of some, over the links, is
multiplied. Its schedule and micro-batches are those that won in `links.race`.
"""

from itertools import chain, pairwise
from typing import Any

from benchmarks.harness import Result, Settings, Table, Target, median, number
from benchmarks.links.entries import FAR, Entry, read_answers
from benchmarks.links.laboratory import Laboratory
from benchmarks.links.race import GOAL_CELL, ROUND_LIMIT, WORKERS, count_rounds, run_tasks
from benchmarks.links.racer import Task
from benchmarks.problems import mnist_mlp

SEEDS, MICROBATCHES, TIMED = 7, 20, 8
RATES = (3e-3, 5e-3, 1e-2)
SM: dict[str, tuple[dict[str, Any], int]] = {
    "links": ({"preset": "links"}, MICROBATCHES),
    "trips": ({"preset": "trips", "wire": "int8"}, 8),
}
PER_PRESET = ("s to 1e-3", "rounds", "waves", "MB", "over Adam")
COLUMNS = ("seed", *(f"{preset}: {name}" for preset in SM for name in PER_PRESET), "Adam's rounds", "Adam, s")


def run(settings: Settings) -> Result:
    """One row a seed."""
    problem = mnist_mlp(Settings(quick=False, device=settings.device), layers=8)
    seeds = list(settings.seeds(SEEDS))
    settings.note("rounds of Adam, in one process")
    needs = [min(count_rounds(problem, "adam", {"lr": lr}, seed).far for lr in RATES) for seed in seeds]
    tasks = [
        Task("sm", options, parts, "posted", ROUND_LIMIT["sm"], FAR, seed)
        for seed in seeds
        for options, parts in SM.values()
    ]
    tasks.append(Task("adam", {"lr": RATES[-1]}, MICROBATCHES, "posted", TIMED, seed=seeds[0]))
    settings.note("over the links")
    with Laboratory(WORKERS, *GOAL_CELL) as laboratory:
        *answers, adam = run_tasks(laboratory, tasks)
        log = laboratory.take_log()
    each = median([after - before for before, after in pairwise(adam[-1]["ends"])])
    entries = [read_answers(task, own, {}) for task, own in zip(tasks, answers, strict=False)]
    by_preset = {preset: entries[place :: len(SM)] for place, preset in enumerate(SM)}
    rows = [
        (f"{seed}", *chain(*(_cells(own[place], need * each) for own in by_preset.values())),
         number(need), number(need * each, 1))
        for place, (seed, need) in enumerate(zip(seeds, needs, strict=True))
    ]  # fmt: skip
    targets = [
        Target(
            f"{preset}: seconds to 1e-3 over Adam's, median",
            median([entry.far / (need * each) for entry, need in zip(own, needs, strict=True)]),
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


def _cells(entry: Entry, adam: float) -> tuple[str, ...]:
    """One preset's part of a row, beside so many seconds of Adam."""
    counts = (number(entry.rounds), number(entry.waves), number(entry.megabytes))
    return number(entry.far, 1), *counts, f"{entry.far / adam:.3f}"
