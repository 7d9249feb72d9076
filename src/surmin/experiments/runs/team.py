"""The processes that carry out a run together, as the run sees them; or a single process, a team of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist

from surmin.launch.group import joined
from surmin.launch.worker import Worker


class Team(Protocol):
    """All members make the same calls in the same order."""

    @property
    def rank(self) -> int:
        """This member's number; 0 writes the files."""

    @property
    def count(self) -> int:
        """Number of members."""

    @property
    def place(self) -> int:
        """This member's number on its machine."""

    def sum(self, *numbers: float) -> list[float]:
        """Numbers summed over all members: the same for each. Not part of any method, so not on its clock."""

    def largest(self, number: float) -> float:
        """The largest of the members' numbers: the same for each."""

    def gather(self, text: str) -> list[str]:
        """Every member's text, by rank."""

    def first(self, count: int) -> dist.ProcessGroup | None:
        """A process group of the members of the lowest ranks; None if there is only one process."""


@dataclass(frozen=True)
class Alone:
    """A single process."""

    rank: int = 0
    count: int = 1
    place: int = 0

    def sum(self, *numbers: float) -> list[float]:
        """Already summed."""
        return list(numbers)

    def largest(self, number: float) -> float:
        """Unchanged: there are no others."""
        return number

    def gather(self, text: str) -> list[str]:
        """Its own text only."""
        return [text]

    def first(self, count: int) -> None:
        """None: there are no others."""


ALONE = Alone()


@dataclass(frozen=True)
class Workers:
    """The processes of torch's default process group, and the seconds they wait for each other."""

    rank: int
    count: int
    place: int
    timeout: float

    def sum(self, *numbers: float) -> list[float]:
        """By an all-reduce."""
        summed = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(summed)
        return [float(number) for number in summed.tolist()]

    def largest(self, number: float) -> float:
        """By an all-reduce."""
        found = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return float(found)

    def gather(self, text: str) -> list[str]:
        """By two all-gathers, of the lengths and of the bytes."""
        content = text.encode()
        lengths = [torch.empty(1, dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(lengths, torch.tensor([len(content)]))
        sizes = [int(length) for length in lengths]
        said = torch.frombuffer(bytearray(content.ljust(max(1, *sizes), b"\0")), dtype=torch.uint8)
        heard = [torch.empty_like(said) for _ in sizes]
        dist.all_gather(heard, said)
        return [bytes(other[:size].tolist()).decode() for other, size in zip(heard, sizes, strict=True)]

    def first(self, count: int) -> dist.ProcessGroup | None:
        """All are the default group; fewer get a new one, which is None if this process is not in it."""
        if count == self.count:
            return dist.group.WORLD
        group = dist.new_group(range(count), timeout=timedelta(seconds=self.timeout), backend="gloo")
        return group if isinstance(group, dist.ProcessGroup) else None


@contextmanager
def team_of(worker: Worker | None, timeout: float, device: str) -> Iterator[Team]:
    """The team of a process that is a worker, for as long as it is one; or of one that is not."""
    if worker is None:
        yield ALONE
        return
    own = choose_device(device, worker.local_rank)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    with joined(worker, timeout):
        yield Workers(worker.rank, worker.count, worker.local_rank, timeout)


def choose_device(name: str, place: int = 0) -> torch.device:
    """The device that a name stands for.

    Args:
        name: auto, cpu or cuda.
        place: this process's number among those on this machine; they take the GPUs in turn.

    Raises:
        ValueError: if cuda is requested and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: no CUDA device is available here; use auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", place % torch.cuda.device_count())
