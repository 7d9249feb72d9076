import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness import CannotRunError
from benchmarks.links.laboratory import Laboratory
from benchmarks.links.namespace import address
from tests.processes import is_running

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-c"]
LATENCY, RATE = 0.02, 2e7
RECEIVE = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    with connection:
        left = int(sys.argv[2])
        while left:
            left -= len(connection.recv(left))
        connection.sendall(b"!")
"""
SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000)) as connection:
    began = time.monotonic()
    connection.sendall(bytes(int(sys.argv[2])))
    connection.recv(1)
    print(time.monotonic() - began)
"""
ABANDONED = """
import os, signal, subprocess, sys
from benchmarks.links.laboratory import Laboratory
laboratory = Laboratory(2, 0.01, 1e8)
worker = laboratory.popen(1, ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
print(worker.pid, worker.stdout.readline(), flush=True)
os.kill(os.getpid(), getattr(signal, sys.argv[1]))
"""
REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
value = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(value)
print(value.item())
dist.destroy_process_group()
"""
CONSTRUCT = "from benchmarks.links.laboratory import Laboratory; Laboratory(2, 0.1, 1e8)"


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    try:
        opened = Laboratory(2, LATENCY, RATE)
    except CannotRunError as missing:
        pytest.skip(str(missing))
    with opened:
        yield opened


@pytest.mark.parametrize(
    ("workers", "latency", "rate"),
    [(1, 0.1, 1e8), (65, 0.1, 1e8), (2, -0.1, 1e8), (2, 0.1, 0), (2, math.nan, 1e8), (2, math.inf, 1e8)],
)
def test_links_that_cannot_be_are_refused(workers, latency, rate):
    with pytest.raises(ValueError, match=r"workers|latency"):
        Laboratory(workers, latency, rate)


def test_it_says_so_where_a_tool_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotRunError, match="nsenter"):
        Laboratory(2, 0.1, 1e8)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_it_says_so_where_it_may_not_run():
    without_rights = ["setpriv", "--bounding-set=-sys_admin"] if os.geteuid() == 0 else []
    ran = run([*without_rights, *PYTHON, CONSTRUCT])
    assert ran.returncode == 1
    assert "CannotRunError: the link laboratory needs root" in ran.stderr.splitlines()[-1]


def test_messages_take_at_least_the_latency_and_the_rate_that_are_set(laboratory):
    assert seconds_to_send(laboratory, 1) >= 2 * LATENCY
    assert seconds_to_send(laboratory, 1_000_000) >= 2 * LATENCY + 8 * 1_000_000 / RATE
    laboratory.set(10 * LATENCY, RATE)
    assert seconds_to_send(laboratory, 1) >= 20 * LATENCY


def test_what_was_carried_is_logged_once(laboratory):
    seconds_to_send(laboratory, 200_000)
    log = laboratory.take_log()
    assert log.bytes > 200_000
    assert log.packets >= log.bytes / 60_000
    assert log.dropped == 0
    assert log.most_late >= log.mean_late > 0
    assert laboratory.take_log().bytes < 10_000  # the last acknowledgements may still have been under way


def test_a_worker_has_a_network_of_its_own_and_the_machine_keeps_its(laboratory):
    show = "import os, socket; print(os.environ['RANK'], *sorted(name for _, name in socket.if_nameindex()))"
    assert start(laboratory, 1, show).communicate(timeout=30)[0].split() == ["1", "lab0", "lo"]
    assert "lab0" not in [name for _, name in socket.if_nameindex()]


def test_there_are_no_other_ranks(laboratory):
    for rank in (-1, 2):
        with pytest.raises(ValueError, match="no rank"):
            laboratory.popen(rank, ["true"])


def test_closing_ends_workers_and_what_they_started(laboratory):
    worker = laboratory.popen(0, ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    with worker.stdout:
        child = int(worker.stdout.readline())
    assert is_running(child)
    laboratory.close()
    assert worker.returncode == -signal.SIGTERM
    assert ends(child)


@pytest.mark.usefixtures("laboratory")  # to skip where there is none
@pytest.mark.parametrize("death", ["SIGKILL", "SIGTERM"])
def test_nothing_outlives_the_process_that_opened_it(death):
    ran = run([*PYTHON, ABANDONED, death])
    assert ran.returncode == -getattr(signal, death)
    processes = [int(word) for word in ran.stdout.split()]
    assert len(processes) == 2
    assert all(ends(process) for process in processes)


@pytest.mark.slow
def test_gloo_finds_its_peers_by_the_environment_alone(laboratory):
    workers = [start(laboratory, rank, REDUCE) for rank in range(2)]
    assert [worker.communicate(timeout=60)[0] for worker in workers] == ["3.0\n", "3.0\n"]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False)


def start(laboratory: Laboratory, rank: int, program: str, *arguments: str) -> subprocess.Popen[str]:
    return laboratory.popen(rank, [*PYTHON, program, *arguments], stdout=subprocess.PIPE, text=True)


def seconds_to_send(laboratory: Laboratory, size: int) -> float:
    """From rank 0 to rank 1, a byte in answer included."""
    receiver = start(laboratory, 1, RECEIVE, address(1), str(size))
    with receiver.stdout:
        assert receiver.stdout.readline() == "ready\n"
        sender = start(laboratory, 0, SEND, address(1), str(size))
        return float(sender.communicate(timeout=30)[0])


def ends(process: int) -> bool:
    """Whether a process of another parent ends within some seconds."""
    deadline = time.monotonic() + 10
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(process)
