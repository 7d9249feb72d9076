"""Processes that carry out tasks together, each task in a process group of its own."""

import faulthandler
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from tests import device

SECONDS = 60
"""After which a task that has not ended is ended, by its own process and by the one that asked for it."""


class Workers:
    """Up to four processes, started when first needed; a task that fails or does not end costs them their lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tasks = 0
        self._processes: list[multiprocessing.Process] = []
        self._connections: list[Connection] = []
        self._busy: list[Connection] = []

    def run(self, count: int, task: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What a module's function returns in `count` processes that are one process group, by rank."""
        self.begin(count, task, *arguments)
        return self.results()

    def begin(self, count: int, task: Callable[..., Any], *arguments: Any) -> None:
        """As `run`, without waiting: `results` does that."""
        if self._busy:  # a test failed before it took the results of its task
            self.end()
        while len(self._processes) < count:
            self._start()
        self._tasks += 1
        self._busy = self._connections[:count]
        for rank, connection in enumerate(self._busy):
            connection.send((rank, count, self._folder / f"rendezvous-{self._tasks}", task, arguments))

    def results(self) -> list[Any]:
        """What the task returned, by rank.

        Raises:
            AssertionError: when it failed anywhere or did not end.
        """
        results: dict[int, Any] = {}
        try:
            while len(results) < len(self._busy):
                ready = wait([own for rank, own in enumerate(self._busy) if rank not in results], SECONDS + 10)
                assert ready, f"no answer from the workers other than {sorted(results)}"
                for connection in ready:
                    rank = self._busy.index(connection)  # type: ignore[arg-type]
                    results[rank], error = self._busy[rank].recv()
                    assert error is None, f"worker {rank} failed:\n{error}"
        except BaseException:
            self.end()
            raise
        count, self._busy = len(self._busy), []
        return [results[rank] for rank in range(count)]

    def end(self) -> None:
        """Leave no process."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._connections, self._busy = [], [], []

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.distributed.settings"])  # so that torch is imported once
        own, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, str(device.here())), daemon=True)
        process.start()
        other.close()
        self._processes.append(process)
        self._connections.append(own)


def _serve(connection: Connection, device_name: str) -> None:
    """Carry out tasks until the one who asks is gone."""
    torch.set_num_threads(1)
    device.use(device_name)
    while True:
        try:
            rank, count, rendezvous, task, arguments = connection.recv()
        except EOFError:
            return
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            _join(rank, count, rendezvous)
            connection.send((task(*arguments), None))
        except Exception:
            connection.send((None, traceback.format_exc()))
        faulthandler.cancel_dump_traceback_later()


def _join(rank: int, count: int, rendezvous: Path) -> None:
    """Leave the last task's group, in which nobody speaks any more, and join a new one."""
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=count)
