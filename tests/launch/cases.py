"""Runs of small worker scripts under `supervise`, each in a process of its own so that it can be signalled."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WORKER = """
import fcntl, os, signal, sys, time
from pathlib import Path
from surmin.launch.worker import Worker
worker = Worker.from_environment()
alive = open(f"alive-{worker.rank}", "w")
fcntl.flock(alive, fcntl.LOCK_EX)
print(os.getpid(), file=alive, flush=True)
"""

IN_A_GROUP = (
    WORKER
    + """
import torch
import torch.distributed as dist
from surmin.launch.group import answer_from, joined
torch.set_num_threads(1)
"""
)

SUPERVISOR = """
import signal, sys
from pathlib import Path
from surmin.launch.supervisor import supervise
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` has it ignored
count, timeout, script = sys.argv[1:]
sys.exit(supervise(int(count), [sys.executable, script], timeout=float(timeout), folder=Path("run")))
"""


@dataclass
class SupervisedRun:
    """Workers and their supervisor, in a folder; every worker holds the lock on its file there while it lives."""

    folder: Path
    count: int
    supervisor: subprocess.Popen[str]

    def result(self, seconds: float = 40) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a run that ends by itself."""
        output, errors = self.supervisor.communicate(timeout=seconds)
        return self.supervisor.returncode, output, errors

    def pid(self, rank: int) -> int:
        """That of a worker; waits until it has one."""
        file = self.folder / f"alive-{rank}"
        wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
        return int(file.read_text())

    def wait_for(self, name: str) -> None:
        """Wait until every worker has made a file of this name and its rank."""
        wait_until(lambda: all((self.folder / f"{name}-{rank}").exists() for rank in range(self.count)))

    def survivors(self) -> list[int]:
        """Workers that live."""
        return [rank for rank in range(self.count) if self._lives(rank)]

    def end(self) -> None:
        """Leave no process, whatever has happened."""
        self.supervisor.kill()
        for rank in self.survivors():
            os.kill(self.pid(rank), 9)
        self.supervisor.communicate()

    def _lives(self, rank: int) -> bool:
        file = self.folder / f"alive-{rank}"
        if not file.exists():
            return False
        with file.open() as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


Launch = Callable[..., SupervisedRun]
"""What the fixture `launch` is."""


def start(folder: Path, script: str, count: int, timeout: float, checkpoint: str, **environment: str) -> SupervisedRun:
    """Start workers that run a script; in `run/checkpoint` there is a folder of the name given."""
    (folder / "run" / "checkpoint" / checkpoint).mkdir(parents=True)
    (folder / "script.py").write_text(script)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(count), str(timeout), "script.py"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return SupervisedRun(folder, count, supervisor)


def wait_until(condition: Callable[[], bool], seconds: float = 40) -> None:
    """Wait for what is to come.

    Raises:
        TimeoutError: when it does not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)
