"""Being a worker: which one this is, and how it ends if something fails. Imports no torch."""

import contextlib
import os
import socket
import sys
import threading
import traceback
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from surmin.exit_codes import WORKER_LOST
from surmin.launch.reports import DEBUG_VARIABLE, Report

SUPERVISOR_VARIABLE = "SURMIN_SUPERVISOR"
"""The file descriptor of a socket whose other end is held by the process that started this worker."""

RENDEZVOUS_VARIABLE = "SURMIN_RENDEZVOUS"
"""The path of a file by which workers find each other; they do by MASTER_ADDR and MASTER_PORT if it is not set."""


@dataclass(frozen=True)
class Worker:
    """This process as one of several that train one network.

    Attributes:
        rank: its number, from 0.
        count: number of workers on all machines.
        local_rank: its number on this machine.
        supervisor: the process that started it, if that was `supervise`.
    """

    rank: int
    count: int
    local_rank: int
    supervisor: socket.socket | None = None

    @classmethod
    def from_environment(cls) -> "Worker | None":
        """The worker that `supervise` or torchrun started; None in any other process. Call it once, early.

        Under `supervise`, this process ends from now on, whatever it is doing, once its supervisor is gone.

        Raises:
            ValueError: if the environment is incomplete or contradicts itself.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return None
        rank, count = _number("RANK"), _number("WORLD_SIZE")
        if rank >= count:
            raise ValueError(f"RANK={rank} is not below WORLD_SIZE={count}")
        local_rank = _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else rank
        return cls(rank, count, local_rank, _supervisor())

    def fail(self, error: BaseException) -> NoReturn:
        """End this process now, reporting to the supervisor, or on stderr without one.

        Nothing is cleaned up: with peers gone, that might wait for ever.
        """
        report = Report.of(error)
        with contextlib.suppress(OSError):
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exception(error)
            if self.supervisor:
                self.supervisor.sendall(report.to_json())
            else:
                print(f"surmin: worker {self.rank}: {report.message}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(report.code)


@cache
def this_worker() -> Worker | None:
    """The worker that this process is, or None."""
    return Worker.from_environment()


def _number(variable: str) -> int:
    text = os.environ[variable]
    if not text.isdecimal():
        raise ValueError(f"{variable}={text!r} is not a number; is this started by torchrun?")
    return int(text)


def _supervisor() -> socket.socket | None:
    number = os.environ.get(SUPERVISOR_VARIABLE)
    if number is None:
        return None
    supervisor = socket.socket(fileno=int(number))
    supervisor.set_inheritable(False)
    threading.Thread(target=_end_with, args=(supervisor,), daemon=True, name="end with the supervisor").start()
    return supervisor


def _end_with(supervisor: socket.socket) -> None:
    with contextlib.suppress(OSError):
        supervisor.recv(1)  # nothing is ever sent: it returns when the other end is closed
    os._exit(WORKER_LOST)
