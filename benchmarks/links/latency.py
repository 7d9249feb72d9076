"""How long links really take, from one worker to another: gloo's messages have to be carried and waited for too."""

import json
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta

import torch.distributed as dist

from benchmarks.links.answers import answers_of
from benchmarks.links.laboratory import PROJECT_ROOT, Laboratory
from benchmarks.links.probe import round_trip
from benchmarks.links.race import Workers

TIMES = 3
SECONDS = 120.0


def found_latency(workers: Workers) -> float:
    """One way, in seconds: half of a round trip, the least of a few that processes of their own measure."""
    return min(_round_trip(workers) for _ in range(TIMES)) / 2


def found_latencies(kinds: Iterable[tuple[float, float]], workers: int) -> dict[tuple[float, float], float]:
    """Of a laboratory's links, for each latency and rate that they are set to."""
    found = {}
    with Laboratory(workers, 0.0, 1e9) as laboratory:
        for latency, rate in kinds:
            laboratory.set(latency, rate)
            found[latency, rate] = found_latency(laboratory)
    return found


def _round_trip(workers: Workers) -> float:
    command = [sys.executable, "-m", "benchmarks.links.latency"]
    two = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [workers.popen(rank, command, two, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) for rank in range(2)]
    return float(json.loads(answers_of(both, SECONDS)[0]))


def main() -> None:
    """One of the two workers; the first prints what it found."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=SECONDS))
    print(json.dumps(round_trip(dist.get_rank())), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
