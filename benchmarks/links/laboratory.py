"""Workers joined by links of a chosen latency and rate, on one machine: what runs in them uses real sockets."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.harness import CannotRunError
from benchmarks.links.namespace import DEVICE, address
from benchmarks.links.relay import Log

PROJECT_ROOT = Path(__file__).resolve().parents[2]
MOST_WORKERS = 64
END_SECONDS = 5.0


class Laboratory:
    """Network namespaces, one for each worker, with a link from every worker to every other.

    The namespaces belong to a process that ends, and takes with it what was started in them, when this one closes the
    laboratory or dies. The machine's own network is not touched.

        with Laboratory(workers=4, latency=0.05, rate=100e6) as laboratory:
            workers = [laboratory.popen(rank, command) for rank in range(4)]

    Args:
        workers: from 2 to 64.
        latency: of each link, one way, in seconds.
        rate: of each link, in bits per second.

    Raises:
        CannotRunError: not on Linux, not root, or without /dev/net/tun, network namespaces or nsenter.
        ValueError: no such links.
    """

    def __init__(self, workers: int, latency: float, rate: float) -> None:
        if not 2 <= workers <= MOST_WORKERS:
            raise ValueError(f"a laboratory has 2 to {MOST_WORKERS} workers, not {workers}")
        _check_links(latency, rate)
        if sys.platform != "linux" or not shutil.which("nsenter"):
            raise CannotRunError("the link laboratory needs Linux with nsenter (util-linux)")
        self.workers = workers
        self._processes: list[subprocess.Popen[Any]] = []
        self._relay = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.links.relay", str(workers)],
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt from the keyboard is for this process
        )
        assert self._relay.stdin and self._relay.stdout
        self._input, self._output = self._relay.stdin, self._relay.stdout
        started = self._hear()
        if "refusal" in started:
            self.close()
            raise CannotRunError(f"the link laboratory needs root, /dev/net/tun and namespaces: {started['refusal']}")
        self._handles: list[int] = started["handles"]
        self.set(latency, rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def set(self, latency: float, rate: float) -> None:
        """Change all links, and start a new log; ValueError if there are no such links.

        The size of packets follows the rate: start workers afterwards, so that their connections know it.
        """
        _check_links(latency, rate)
        self._ask({"latency": latency, "rate": rate})

    def take_log(self) -> Log:
        """What the links carried since this or `set` was last called, and how late packets left."""
        return Log(**self._ask(None))

    def popen(
        self, rank: int, command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a process in a worker's namespace, with the environment that `torchrun` would give it.

        There, `init_process_group("gloo")` without more connects the workers over the links.

        Args:
            rank: of the worker.
            command: to run.
            environment: on top of this process's own and RANK, WORLD_SIZE, MASTER_ADDR and the like.
            options: of `subprocess.Popen`.

        Raises:
            ValueError: no such rank.
        """
        if not 0 <= rank < self.workers:
            raise ValueError(f"a laboratory of {self.workers} workers has no rank {rank}")
        entered = ["nsenter", f"--net=/proc/{self._relay.pid}/fd/{self._handles[rank]}", "--", *command]
        together = {**os.environ, **self._environment(rank), **(environment or {})}
        process = subprocess.Popen(entered, env=together, **options)
        self._processes.append(process)
        return process

    def close(self) -> None:
        """End what was started here: the processes, within a few seconds, then the namespaces."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            _end(process)
        self._processes.clear()
        self._input.close()
        _end(self._relay)
        self._output.close()

    def _environment(self, rank: int) -> dict[str, str]:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.workers, "LOCAL_WORLD_SIZE": self.workers}
        meeting = {"MASTER_ADDR": address(0), "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": DEVICE}
        quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # else torch warns that addresses have no names here
        return {**{name: str(value) for name, value in ranks.items()}, **meeting, **quiet}

    def _ask(self, request: dict[str, float] | None) -> dict[str, Any]:
        self._input.write(json.dumps(request) + "\n")
        self._input.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        answer = self._output.readline()
        if not answer:
            raise RuntimeError("the laboratory's relay has ended: what it wrote to stderr says why")
        return json.loads(answer)


def _check_links(latency: float, rate: float) -> None:
    if not (0 <= latency < math.inf and rate > 0):
        raise ValueError(f"a link has a finite latency ≥ 0 and a rate > 0, not {latency} and {rate}")


def _end(process: subprocess.Popen[Any]) -> None:
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
