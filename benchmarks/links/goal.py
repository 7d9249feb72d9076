"""The kind of link that a promise was made for, 50 ms and 100 Mbit/s, over several seeds: `sm` against Adam.

As in `links.race`, with the settings that won there for both. `sm` runs to the end. Adam's rounds are counted in one
process, for every seed at the best of three rates (`sm` has the same settings for all seeds); all cost the same, and
the median of some, over the links, is multiplied.
"""

from itertools import pairwise

from benchmarks.harness import Result, Settings, Table, Target, median, number
from benchmarks.links.entries import FAR, read_answers
from benchmarks.links.laboratory import Laboratory
from benchmarks.links.race import GOAL_CELL, ROUND_LIMIT, WORKERS, count_rounds, run_tasks
from benchmarks.links.racer import Task
from benchmarks.problems import mnist_mlp

SEEDS, MICROBATCHES, TIMED = 7, 20, 8
RATES, SM = (3e-3, 5e-3, 1e-2), {"preset": "links"}


def run(settings: Settings) -> Result:
    """One row a seed."""
    problem = mnist_mlp(Settings(quick=False, device=settings.device), layers=8)
    seeds = list(settings.seeds(SEEDS))
    settings.note("rounds of Adam, in one process")
    needs = [min(count_rounds(problem, "adam", {"lr": lr}, seed).far for lr in RATES) for seed in seeds]
    tasks = [Task("sm", SM, MICROBATCHES, "posted", ROUND_LIMIT["sm"], FAR, seed) for seed in seeds]
    tasks.append(Task("adam", {"lr": RATES[-1]}, MICROBATCHES, "posted", TIMED, seed=seeds[0]))
    settings.note("over the links")
    with Laboratory(WORKERS, *GOAL_CELL) as laboratory:
        *answers, adam = run_tasks(laboratory, tasks)
        log = laboratory.take_log()
    each = median([after - before for before, after in pairwise(adam[-1]["ends"])])
    entries = [read_answers(task, own, {}) for task, own in zip(tasks, answers, strict=False)]
    ratios = [own.far / (need * each) for own, need in zip(entries, needs, strict=True)]
    rows = [
        (
            *(f"{seed}", number(own.far, 1), number(own.rounds), number(own.waves), number(own.megabytes)),
            *(number(need), number(need * each, 1), f"{ratio:.3f}"),
        )
        for seed, own, need, ratio in zip(seeds, entries, needs, ratios, strict=True)
    ]
    columns = ("seed", "sm, s to 1e-3", "rounds", "waves", "MB", "Adam's rounds", "Adam, s", "sm / Adam")
    lateness = f"the relay was at most {1e3 * log.most_late:.1f} ms late"
    return Result(
        [Table(f"50 ms, 100 Mbit/s, preset links against Adam; {lateness}", columns, rows)],
        [Target("sm's seconds to 1e-3 over Adam's, median", median(ratios), 1 / 6)],
        {"seeds": [dict(zip(columns, row, strict=True)) for row in rows], "adam's seconds a round": each},
    )
