"""The model behind `surmin simulate` against what was measured over links, and by workers of this machine.

Measured are all cells of `links.race` and `links.trips`, as saved. Rounds are recorded in one process and their time is
computed for the same links, whose latency is what gloo finds it to be. All four workers, and the relay that carries
their packets, share this machine's cores, and so they do in the model. How fast the machine was, against when the
rounds were recorded, and what a message cost it are found for each kind of links from the processor times that were
kept: four numbers for 24 tasks (three for the presets alone), and one for the relay, whose packets were counted.
No time that passed is fitted.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import SAVED, Result, Settings, Table, Target, median, number
from benchmarks.links import trips
from benchmarks.links.entries import Entry, Need
from benchmarks.links.latency import found_latencies, found_latency
from benchmarks.links.modelled import Machine, Modelled, fit_machine, record_all
from benchmarks.links.pages import keep_memory
from benchmarks.links.race import SEED, WORKERS, median_entries, tasks_of
from benchmarks.links.relay import packet_size
from benchmarks.problems import mnist_mlp
from surmin.simulation.seconds import Setting
from surmin.simulation.wires import LinkKind

LOOPBACK_RATE, LOOPBACK_PACKET = 1e11, 65_536
"""Of this machine's own network: next to no time."""
CORES = float(os.cpu_count() or 1)
REPEATS = 7
WITHIN = 0.2
COLUMNS = ("latency", "Mbit/s", "method", "setting", "model, s", "measured, s", "error")
COST_COLUMNS = (
    *("latency", "Mbit/s", "found, ms", "work", "µs a message", "of torch's schedules", "ns a byte"),
    "relay, µs a packet",
)
Row = tuple[str, str, str, str, float, float]


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
    """Every entry that was saved, and the race's tasks on workers of this machine."""
    keep_memory()
    race = json.loads((SAVED / "links.race.json").read_text(encoding="utf-8"))
    needs = {name: Need(**need) for name, need in race["needs"].items()}
    problem = mnist_mlp(Settings(quick=False, device=settings.device), layers=8)
    settings.note("recording the rounds in one process")
    tasks = tasks_of(needs)
    recorded = record_all([*tasks, *trips.tasks_of(SEED)], problem)
    modelled, presets = recorded[: len(tasks)], recorded[len(tasks) :]
    settings.note("on workers of this machine")
    local = median_entries(LocalWorkers(), tasks, needs, REPEATS)
    loopback = LinkKind(found_latency(LocalWorkers()), LOOPBACK_RATE, LOOPBACK_PACKET)
    settings.note("latencies")
    latencies = found_latencies([(cell["latency"], cell["rate"]) for cell in race["cells"]], WORKERS)
    cells = [
        [_of_cell(cell, own, latencies[cell["latency"], cell["rate"]]) for cell in saved]
        for saved, own in ((race["cells"], modelled), (_cells_of_presets(), presets))
    ]
    rows, preset_rows = ([row for own, _ in saved for row in own] for saved in cells)
    here, machine = ("workers of this machine", ""), machine_of(modelled, local)
    own_rows = held_against(here, modelled, local, machine, Setting(loopback, cores=CORES))
    costs = [cost for saved in cells for _, cost in saved] + [(*here, *_costs(loopback, machine), "")]
    errors = [abs(_error(row)) for row in rows]
    everything = [rows, preset_rows, own_rows]
    return Result(
        [
            *map(_table, everything),
            Table("Processor time: of work over that recorded, of messages at each end", COST_COLUMNS, costs),
        ],
        [
            Target("largest error, race", max(errors), WITHIN),
            Target("median error, race", median(errors), WITHIN),
            Target("largest error, presets", max(abs(_error(row)) for row in preset_rows), WITHIN),
            Target("largest error, workers of this machine", max(abs(_error(row)) for row in own_rows), WITHIN),
        ],
        {"rows": [dict(zip(COLUMNS, (*row, _error(row)), strict=True)) for own in everything for row in own]},
    )


def _cells_of_presets() -> list[dict[str, Any]]:
    """Those of the saved `links.trips`, with the entries of the seed that is recorded."""
    saved = json.loads((SAVED / "links.trips.json").read_text(encoding="utf-8"))
    place = saved["seeds"].index(SEED)
    return [{**cell, "entries": [own[place] for own in cell["entries"].values()]} for cell in saved["cells"]]


def _of_cell(
    cell: Mapping[str, Any], modelled: Sequence[Modelled], latency: float
) -> tuple[list[Row], tuple[str, ...]]:
    """Model and measurement over one kind of links, by the latency found, and what messages cost there."""
    where = f"{1e3 * cell['latency']:g} ms", f"{cell['rate'] / 1e6:g}"
    entries = [Entry(**entry) for entry in cell["entries"]]
    links = LinkKind(latency, cell["rate"], packet_size(cell["rate"]))
    packet = cell["relay"]["processor"] / cell["relay"]["packets"]
    machine = machine_of(modelled, entries)
    rows = held_against(where, modelled, entries, machine, Setting(links, cores=CORES, packet=packet))
    return rows, (*where, *_costs(links, machine), number(1e6 * packet))


def machine_of(modelled: Sequence[Modelled], entries: Sequence[Entry]) -> Machine:
    """By the processor times of some entries, those run to the end twice aside."""
    taken = {entry.name: entry.processor for entry in entries}
    return fit_machine(modelled, [taken[own.name] for own in modelled])


def held_against(
    where: tuple[str, str], modelled: Sequence[Modelled], entries: Sequence[Entry], machine: Machine, setting: Setting
) -> list[Row]:
    """Model and measurement of every task, for as many rounds as workers needed: `sm`'s differ by rounding."""
    found = {entry.name: entry for entry in entries}
    pairs = [(own, found[own.name]) for own in modelled]
    return [(*where, *own.name, machine.seconds(own, setting, entry.rounds), entry.far) for own, entry in pairs]


def _error(row: Row) -> float:
    return row[4] / row[5] - 1


def _table(rows: Sequence[Row]) -> Table:
    written = [(*row[:4], number(row[4], 2), number(row[5], 2), f"{100 * _error(row):+.1f} %") for row in rows]
    return Table("Seconds to 1e-3: model and measurement", COLUMNS, written)


def _costs(links: LinkKind, machine: Machine) -> tuple[str, ...]:
    """The latency found; work over that recorded; of a message of ours and of torch's; of a byte."""
    of_torchs = number(1e6 * machine.torchs_message) if machine.torchs_message else ""
    latency = f"{1e3 * links.latency:.2f}"
    return latency, number(machine.slowness, 2), number(1e6 * machine.message), of_torchs, number(1e9 * machine.byte, 2)
