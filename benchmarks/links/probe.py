"""What gloo makes of a link, measured by the workers at its ends; each prints what it found as JSON, in seconds.

All processes of a machine have one monotonic clock, so the time of one direction is measured without an answer.
"""

import json
import statistics
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

MESSAGE_BYTES = 1_280_000
WARM_UP_BYTES = 8 * MESSAGE_BYTES
TRIPS = 8
APART = 0.6
"""Seconds between posting a receive and sending: more than any latency that is measured."""


def main() -> None:
    """In the group that the environment tells of, ranks 0 and 1 exchange messages and all of them reduce."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    found: dict[str, float] = {}
    resent = _segments_sent_again()
    if rank < 2:
        found["round_trip"] = round_trip(rank)
        one_way(rank, WARM_UP_BYTES, -APART)  # opens the connection's window
        found["message"] = one_way(rank, MESSAGE_BYTES, -APART)
        found["posted_before"] = one_way(rank, 8, -APART)
        found["posted_together"] = one_way(rank, 8, 0)
        found["posted_after"] = one_way(rank, 8, APART)
    found["all_reduce"] = _all_reduce()
    found["resent"] = _segments_sent_again() - resent
    print(json.dumps(found), flush=True)
    dist.destroy_process_group()


def one_way(rank: int, size: int, posted: float) -> float:
    """From rank 1 to rank 0: seconds from when it was both sent and to be received to its arrival.

    Args:
        rank: of this worker, 0 or 1.
        size: of the message, in bytes.
        posted: how long after the message was sent its receive is posted; negative is before.
    """
    start, message = torch.zeros(1, dtype=torch.float64), torch.zeros(size // 8, dtype=torch.float64)
    if rank == 1:
        dist.recv(start, 0)
        _sleep_until(start.item())
        dist.send(message, 0)
        return 0.0
    start[0] = time.monotonic() + 3 * APART
    dist.send(start, 1)
    _sleep_until(start.item() + posted)
    dist.recv(message, 1)
    return time.monotonic() - start.item() - max(posted, 0)


def round_trip(rank: int) -> float:
    """Of a few bytes from rank 0 to rank 1 and back, every receive posted at least a trip ahead; rank 0 knows it."""
    message, times = torch.zeros(1), []
    if rank == 1:
        for question in [_receive(0) for _ in range(TRIPS)]:
            question.wait()
            dist.send(message, 0)
        return 0.0
    for _ in range(TRIPS):
        began = time.monotonic()
        answer = _receive(1)
        dist.send(message, 1)
        answer.wait()
        times.append(time.monotonic() - began)
    return statistics.median(times)


def _all_reduce() -> float:
    values, times = torch.ones(8, dtype=torch.float64), []
    for _ in range(TRIPS):
        began = time.monotonic()
        dist.all_reduce(values)
        times.append(time.monotonic() - began)
    return statistics.median(times)


def _segments_sent_again() -> int:
    """By TCP in this worker's namespace, ever."""
    lines = Path("/proc/net/snmp").read_text(encoding="ascii").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def _receive(source: int) -> dist.Work:
    work = dist.irecv(torch.zeros(1), source)
    assert work
    return work


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


if __name__ == "__main__":
    main()
