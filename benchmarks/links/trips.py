"""The presets `links` and `trips` over the same slow links: from which latency far fewer trips pay for their work.

Network and data of `links.race`. Each preset has what suits it: `links` 20 micro-batches, by which its waves are
streamed; `trips` 8, so that candidates travel one by one while stages solve, and columns in 8 bits.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.harness import Result, Settings, Table, Target, median, number, spread
from benchmarks.links.entries import FAR, Entry, read_answers
from benchmarks.links.laboratory import Laboratory
from benchmarks.links.race import GOAL_CELL, ROUND_LIMIT, WORKERS, run_tasks
from benchmarks.links.racer import Task

PAYS = (0.1, 1e9)
"""Where `trips` is to be ahead."""
CELLS = (GOAL_CELL, PAYS)
SEEDS = 3
CHOICES: dict[str, tuple[dict[str, Any], int]] = {
    "links": ({"preset": "links"}, 20),
    "trips, N = 1": ({"preset": "trips", "wire": "int8", "inner_steps": 1}, 8),
    "trips, N = 20": ({"preset": "trips", "wire": "int8"}, 8),
    "trips, N = 20, all candidates at once": ({"preset": "trips", "wire": "int8"}, 1),
}
COLUMNS = ("preset", "s to 1e-3", "rounds", "forward waves", "MB", "seconds, over those of links")


def run(settings: Settings) -> Result:
    """A table for every kind of link."""
    seeds = list(settings.seeds(SEEDS))
    result = Result(figures={"seeds": seeds, "cells": []})
    cells = CELLS[-1:] if settings.quick else CELLS
    with Laboratory(WORKERS, *cells[0]) as laboratory:
        for latency, rate in cells:
            laboratory.set(latency, rate)
            where = f"{1e3 * latency:g} ms, {rate / 1e6:g} Mbit/s"
            settings.note(where)
            entries = _race(laboratory, seeds)
            log = laboratory.take_log()
            result.tables.append(_table(f"{where}; the relay was at most {1e3 * log.most_late:.1f} ms late", entries))
            kept = {name: [asdict(entry) for entry in own] for name, own in entries.items()}
            result.figures["cells"].append({"latency": latency, "rate": rate, "relay": asdict(log), "entries": kept})
            ratio = min(_seconds(entries[name]) for name in CHOICES if name != "links") / _seconds(entries["links"])
            if (latency, rate) == PAYS:
                result.targets.append(Target(f"seconds of trips over those of links, {where}, medians", ratio, 1))
    return result


def tasks_of(seed: int) -> list[Task]:
    """Every preset to a loss of 1e-3."""
    return [
        Task("sm", options, microbatches, "posted", ROUND_LIMIT["sm"], FAR, seed)
        for options, microbatches in CHOICES.values()
    ]


def _race(laboratory: Laboratory, seeds: Sequence[int]) -> dict[str, list[Entry]]:
    """In turns, seed after seed."""
    tasks = [task for seed in seeds for task in tasks_of(seed)]
    found = [read_answers(task, own, {}) for task, own in zip(tasks, run_tasks(laboratory, tasks), strict=True)]
    return {name: found[place :: len(CHOICES)] for place, name in enumerate(CHOICES)}


def _table(title: str, entries: dict[str, list[Entry]]) -> Table:
    rows = [
        (
            name,
            spread([entry.far for entry in own], 1),
            spread([entry.rounds for entry in own]),
            spread([entry.waves for entry in own]),
            spread([entry.megabytes for entry in own]),
            number(_seconds(own) / _seconds(entries["links"]), 2),
        )
        for name, own in entries.items()
    ]
    return Table(title, COLUMNS, rows)


def _seconds(entries: Sequence[Entry]) -> float:
    return median([entry.far for entry in entries])
