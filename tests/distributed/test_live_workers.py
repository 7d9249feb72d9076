"""The processes of a real `surmin train --workers`, looked at while they run: where they listen, and one that hangs."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import is_running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers and their sockets by /proc"),
]
SECONDS = 60
TIMEOUT = 10
LISTENS = "0A"
WORDS = ["--data", "digits", "--train-samples", "100", "--width", "8", "--workers", "2", "--rounds", "100000"]


@contextmanager
def started(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run that has come to its second row, and its workers' process ids."""
    command = [sys.executable, "-m", "surmin", "train", *WORDS, "--timeout", str(TIMEOUT), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + SECONDS
        while rows(folder) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield process, list(map(int, children))
    finally:
        process.kill()
        process.communicate()


def rows(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def listening(pid: int) -> set[str]:
    """The addresses at which a process waits for connections."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(file))
        except FileNotFoundError:  # closed meanwhile
            continue
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENS and f"socket:[{inode}]" in inodes:
                found.add(address(local.partition(":")[0], family))
    return found


def address(digits: str, family: int) -> str:
    """As the kernel writes it: 32-bit words in the machine's order."""
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))


def test_addresses_are_read_as_the_kernel_writes_them() -> None:
    for wildcard, local, family in (("0.0.0.0", "127.0.0.1", socket.AF_INET), ("::", "::1", socket.AF_INET6)):
        for host in (wildcard, local):
            with socket.create_server((host, 0), family=family):
                assert host in listening(os.getpid())


def test_workers_listen_on_loopback_only(tmp_path: Path) -> None:
    with started(tmp_path / "run") as (process, workers):
        found = [listening(pid) for pid in (process.pid, *workers)]
    assert len(workers) == 2 and any(found)
    assert set.union(*found) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_worker_that_hangs_ends_the_run_in_time(tmp_path: Path) -> None:
    with started(tmp_path / "run") as (process, workers):
        os.kill(workers[1], signal.SIGSTOP)
        _, errors = process.communicate(timeout=2 * TIMEOUT)
    assert process.returncode == 3, errors
    assert "worker 1 did not answer" in errors
    assert not any(map(is_running, workers))
