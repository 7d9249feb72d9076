"""A worker as the process that started it sees it."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence

from surmin.exit_codes import INTERRUPTED
from surmin.launch.reports import DEBUG_VARIABLE, Report
from surmin.launch.verdict import State
from surmin.launch.worker import SUPERVISOR_VARIABLE

KEPT = 8192
"""Bytes of a worker's stderr that are kept."""

PIPE = 65536


class LocalWorker:
    """A process on this machine. A socket tells it of the end of this process, and carries its report.

    Args:
        rank: which worker it is; 0 has this process's stdout and stderr, the others' stderr is
            kept (or shown if `DEBUG_VARIABLE` is set).
        command: the program and its arguments.
        environment: variables that all workers share.

    Raises:
        OSError: if it cannot be started.
    """

    def __init__(self, rank: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.rank = rank
        self._sent: set[int] = set()
        self._said = self._errors = b""
        self._socket, theirs = socket.socketpair()
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), SUPERVISOR_VARIABLE: str(theirs.fileno())}
        stderr = None if rank == 0 or environment.get(DEBUG_VARIABLE) else subprocess.PIPE
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=None if rank == 0 else subprocess.DEVNULL,
                    stderr=stderr,
                    env={**environment, **own},
                    pass_fds=[theirs.fileno()],
                    process_group=0,
                )
            except OSError:
                self._socket.close()
                raise
        self._socket.setblocking(False)
        if self._process.stderr:
            os.set_blocking(self._process.stderr.fileno(), False)

    def state(self) -> State:
        """Its current state; its last output is read after it is seen to have ended, so that nothing is missed."""
        code = self._process.poll()
        self._said += _read(self._socket.fileno())
        if self._process.stderr:
            self._errors = (self._errors + _read(self._process.stderr.fileno()))[-KEPT:]
        line, complete, _ = self._said.partition(b"\n")
        report = Report.from_json(line) if complete else None
        if code is None:
            return State(self.rank, report=report)
        complaint = self._errors.decode(errors="replace").strip().rpartition("\n")[2]
        return State(self.rank, INTERRUPTED if -code in self._sent else code, report, complaint)

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        self._sent.add(number)
        self._process.send_signal(number)

    def end(self, seconds: float) -> None:
        """Wait for the process, which has been asked to end; kill it after so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()
        if self._process.stderr:
            self._process.stderr.close()


def _read(file: int) -> bytes:
    """What can be read without waiting: no more than a full pipe."""
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        return os.read(file, PIPE)
    return b""
