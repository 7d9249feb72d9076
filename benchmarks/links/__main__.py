"""`python -m benchmarks.links`: does the laboratory keep to the latencies and rates it is set to?"""

import json
import subprocess
import sys
from dataclasses import dataclass

import torch
from rich.console import Console

from benchmarks.harness import CannotRunError, Result, Settings, Table, Target, describe_machine, print_result
from benchmarks.links.laboratory import PROJECT_ROOT, Laboratory
from benchmarks.links.probe import MESSAGE_BYTES
from benchmarks.links.relay import Log

WORKERS = 4
LINKS = ((1e-4, 1e9), (0.01, 1e8), (0.05, 1e8), (0.1, 1e8), (0.05, 1e9), (0.05, 2e7))
PROBE_SECONDS = 120
LINK_COLUMNS = (
    *("latency", "Mbit/s", "round trip, ms", f"{MESSAGE_BYTES / 1e6} MB, ms", "Mbit/s found"),
    *("resent", "dropped", "packets", "most late, ms", "mean late, ms"),
)
WAITS = ("posted_before", "posted_together", "posted_after", "all_reduce")
GLOO_COLUMNS = ("latency", "Mbit/s", "posted before", "posted as it is sent", "posted after", "all-reduce, 4 workers")


@dataclass(frozen=True)
class Cell:
    """Links of one kind: what was set (seconds, bits per second), what gloo found, what the relay did."""

    latency: float
    rate: float
    found: dict[str, float]
    log: Log

    @property
    def extra_milliseconds(self) -> float:
        """Of a round trip, beyond the links' latency."""
        return 1e3 * (self.found["round_trip"] - 2 * self.latency)

    @property
    def throughput(self) -> float:
        """Bits of a large message per second, its latency taken off."""
        return 8 * MESSAGE_BYTES / (self.found["message"] - self.latency)


def main() -> int:
    """Print what was set beside what gloo found; 1 if the laboratory cannot run here."""
    settings, console = Settings(quick=False, device=torch.device("cpu")), Console(width=120)
    machine = describe_machine(settings)
    try:
        result = check(settings)
    except CannotRunError as missing:
        console.print(f"skipped: {missing}", markup=False)
        return 1
    print_result(console, result, settings, machine)
    return 0


def check(settings: Settings) -> Result:
    """Probe links of every kind, with fresh processes each time."""
    cells = []
    with Laboratory(WORKERS, *LINKS[0]) as laboratory:
        for latency, rate in LINKS:
            settings.note(f"{1e3 * latency:g} ms, {rate / 1e6:g} Mbit/s")
            laboratory.set(latency, rate)
            cells.append(Cell(latency, rate, probe(laboratory), laboratory.take_log()))
    return Result(
        tables=[
            Table("Links", LINK_COLUMNS, [_link_row(cell) for cell in cells]),
            Table("gloo, ms to deliver 8 bytes", GLOO_COLUMNS, [_gloo_row(cell) for cell in cells]),
        ],
        targets=[
            Target("round trip beyond twice the latency, ms", max(cell.extra_milliseconds for cell in cells), 1.0),
            Target("a packet's lateness, ms", 1e3 * max(cell.log.most_late for cell in cells), 2.0),
            Target("throughput over rate, least", min(cell.throughput / cell.rate for cell in cells), 0.9, True),
        ],
    )


def probe(laboratory: Laboratory) -> dict[str, float]:
    """What rank 0 found, and the segments that TCP sent again in all namespaces."""
    command = [sys.executable, "-m", "benchmarks.links.probe"]
    workers = [
        laboratory.popen(rank, command, {"OMP_NUM_THREADS": "1"}, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)
        for rank in range(laboratory.workers)
    ]
    answers = [worker.communicate(timeout=PROBE_SECONDS)[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError("a probe failed: what it wrote to stderr says why")
    found = [json.loads(answer) for answer in answers]
    return {**found[0], "resent": sum(own["resent"] for own in found)}


def _link_row(cell: Cell) -> tuple[str, ...]:
    found, log = cell.found, cell.log
    times = [found["round_trip"], found["message"], log.most_late, log.mean_late]
    round_trip, message, most_late, mean_late = (f"{1e3 * seconds:.2f}" for seconds in times)
    carried = f"{found['resent']:.0f}", f"{log.dropped}", f"{log.packets}"
    return *_settings(cell), round_trip, message, f"{cell.throughput / 1e6:.1f}", *carried, most_late, mean_late


def _gloo_row(cell: Cell) -> tuple[str, ...]:
    return *_settings(cell), *(f"{1e3 * cell.found[name]:.2f}" for name in WAITS)


def _settings(cell: Cell) -> tuple[str, str]:
    return f"{1e3 * cell.latency:g} ms", f"{cell.rate / 1e6:g}"


if __name__ == "__main__":
    sys.exit(main())
