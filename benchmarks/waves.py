"""Forward and gradient waves on two workers: what they cost beside torch's bare pipelining schedules.

Ours check every new batch for what is not finite, and compare it over the workers; torch's do not. Hence two rows each:
the same batch at every step, as in full-batch training, and another one at every step.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.clock import ratios
from benchmarks.harness import Result, Settings, Table, Target, median, spread
from surmin.launch.worker import RENDEZVOUS_VARIABLE

WORKERS, MICROBATCHES, SECONDS = 2, 4, 300
PROJECT_ROOT = Path(__file__).resolve().parents[1]
PEERS = {
    f"{name}{batches}": f"torch's {peer}"
    for batches in ("", ", new batches")
    for name, peer in (("gpipe", "gpipe"), ("1f1b", "1f1b"), ("posted", "gpipe"))
}


def run(settings: Settings) -> Result:
    """At widths 64 and 512; the target is for 512."""
    widths, samples, turns = ((64,), 400, 3) if settings.quick else ((64, 512), 4000, 61)
    result = Result()
    rows = []
    for width in widths:
        seconds = time_workers(width, samples, turns)
        result.figures[f"width {width}"] = seconds
        for name, peer in PEERS.items():
            over = ratios(seconds[name], seconds[peer])
            rows.append((f"{width}", name, spread([1e3 * own for own in seconds[name]], 1), peer, spread(over, 3)))
            if width == widths[-1]:
                result.targets.append(Target(f"width {width}: {name} over {peer}", median(over), 1.05))
    columns = ("width", "waves", "ms", "peer", "over the peer's")
    result.tables.append(Table(f"{WORKERS} workers, {MICROBATCHES} micro-batches, {samples} samples", columns, rows))
    return result


def time_workers(width: int, samples: int, turns: int) -> dict[str, list[float]]:
    """Seconds of every kind of step, as worker 0 saw them."""
    words = [str(number) for number in (width, samples, MICROBATCHES, turns)]
    command = [sys.executable, "-m", "benchmarks.waves_worker", *words]
    with tempfile.TemporaryDirectory() as folder:
        shared = {**os.environ, "WORLD_SIZE": str(WORKERS), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1",
                  RENDEZVOUS_VARIABLE: str(Path(folder) / "rendezvous")}  # fmt: skip
        workers = [
            subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True,
                             env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(WORKERS)
        ]  # fmt: skip
        try:
            answers = [worker.communicate(timeout=SECONDS)[0] for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    seconds: dict[str, list[float]] = json.loads(answers[0])
    return seconds
