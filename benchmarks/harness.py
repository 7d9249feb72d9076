"""What every benchmark hands back, and how it is printed and kept: tables, targets, JSON with the machine it ran on."""

import fcntl
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

import surmin
from surmin.experiments.files import finite, write_json

SAVED = Path(__file__).parent / "results" / "saved"
"""Results that are kept with the project."""
LOCK = Path(tempfile.gettempdir()) / "surmin-benchmarks.lock"
QUIET_TRIES, QUIET_SECONDS = 20, 10


class CannotRunError(Exception):
    """Something that this benchmark needs is not here; the message says what."""


@dataclass(frozen=True)
class Settings:
    """How benchmarks are run.

    Attributes:
        quick: cut down to see that they work; targets are not judged then.
        device: that torch computes on.
        most_seeds: take at most so many seeds; targets are not judged then either.
        processes: that compute at the same time.
    """

    quick: bool
    device: torch.device
    most_seeds: int | None = None
    processes: int = 1

    @property
    def judges(self) -> bool:
        """Whether targets can be judged."""
        return not self.quick and self.most_seeds is None

    def seeds(self, count: int) -> range:
        """The seeds of the networks' initial values: so many, or one in a quick run."""
        return range(min(count, self.most_seeds or count, 1 if self.quick else count))

    def note(self, text: str) -> None:
        """Tell someone who waits what comes next."""
        print(f"… {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Target:
    """A figure that was promised, and the one measured; infinite where a loss was not reached at all."""

    what: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the promise is kept."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Result:
    """What a benchmark found; filled as it goes along.

    Attributes:
        tables: to be printed.
        targets: those of the project that this benchmark judges.
        figures: everything measured, for the JSON file.
        picture: kept beside the JSON file.
    """

    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    picture: Figure | None = None


def median(values: Sequence[float]) -> float:
    """The median; infinite values (never reached) are allowed."""
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and range as text: "15 (14 to 17)"."""
    low, middle, high = (number(v, digits) for v in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def number(value: float, digits: int = 0) -> str:
    """One number as text; what was never reached is "never"."""
    return "never" if math.isinf(value) else "–" if math.isnan(value) else f"{value:.{digits}f}"


def describe_machine(settings: Settings) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "surmin": surmin.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processes": settings.processes,
        "device": _device_name(settings.device),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def is_busy(machine: dict[str, Any]) -> bool:
    """Whether other work was running when the machine was described: more than what would be left for it."""
    left = max(0, machine["cores"] - machine["processes"] * machine["threads"])
    return bool(machine["load_before"] > left + 0.5)


def wait_until_quiet(settings: Settings) -> None:
    """What was measured before still counts as load for a while."""
    for _ in range(QUIET_TRIES):
        if not is_busy(describe_machine(settings)):
            return
        time.sleep(QUIET_SECONDS)


@contextmanager
def alone() -> Iterator[None]:
    """Results to be kept are measured by one run at a time on a machine: two would slow each other down."""
    with LOCK.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another run with --save is measuring on this machine: wait until it has ended")
        yield


def print_result(console: Console, result: Result, settings: Settings, machine: dict[str, Any]) -> None:
    """Tables, then targets, then the machine."""
    targets = [_target_row(target, settings.judges) for target in result.targets]
    tables = [*result.tables, *([Table("Targets", ("what", "measured", "target", ""), targets)] if targets else [])]
    for table in tables:
        console.print(table.title, style="bold", markup=False, highlight=False)
        shown = RichTable(box=box.SIMPLE_HEAD)
        for position, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if position else "left")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), markup=False, highlight=False)
    if is_busy(machine):
        console.print("Other work was running on this machine: do not trust the times.")


def write_result(folder: Path, name: str, result: Result, settings: Settings, machine: dict[str, Any]) -> list[Path]:
    """Keep a result as NAME.json (NAME-quick.json after a quick run), and its picture; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-quick" if settings.quick else name
    targets = [{**asdict(target), "reached": target.reached if settings.judges else None} for target in result.targets]
    content = {"benchmark": name, "quick": settings.quick, "machine": machine, "targets": targets, **result.figures}
    write_json(folder / f"{stem}.json", finite(content))
    if result.picture is None:
        return [folder / f"{stem}.json"]
    result.picture.savefig(folder / f"{stem}.png")
    return [folder / f"{stem}.json", folder / f"{stem}.png"]


def _target_row(target: Target, judged: bool) -> tuple[str, str, str, str]:
    relation = "≥" if target.at_least else "≤"
    verdict = "not judged" if not judged else "reached" if target.reached else "NOT REACHED"
    return target.what, f"{target.measured:.4g}", f"{relation} {target.limit:.4g}", verdict


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
