"""What the processes do that write checkpoints together; little is imported here, because each of them imports it."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from surmin.checkpoints import round_folder
from surmin.checkpoints.checkpoint import Checkpoint

WORKERS = 3
SECONDS = 100


def run_workers(work: Callable[..., None], rendezvous: Path, *arguments: Any) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_join, args=(rank, rendezvous, work, arguments)) for rank in range(WORKERS)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(SECONDS)
        assert [process.exitcode for process in processes] == [0] * WORKERS
    finally:
        for process in processes:
            process.kill()
            process.join()


def _join(rank: int, rendezvous: Path, work: Callable[..., None], arguments: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORKERS)
    work(rank, *arguments)
    dist.destroy_process_group()


def redistribute(rank: int, folders: dict[Path, Path]) -> None:
    for source, target in folders.items():
        names = sorted(Checkpoint.load(source).parameters)
        Checkpoint.load(source, names[rank::WORKERS]).save(target, dist.group.WORLD)


def save_while_one_fails(rank: int, folder: Path) -> None:
    def part(number: int, step: int) -> Checkpoint:
        return Checkpoint(number, "adam", {f"{rank}.weight": torch.full((2,), float(number))}, {"step": step})

    def failing(*arguments: Any) -> None:
        raise OSError("No space left on device")

    def refused(message: str, guilty: int, step: int = 2, path: Path = folder) -> None:
        expected = f"^{message}" if rank == guilty else f"^worker {guilty} could not write the checkpoint: .*{message}"
        with pytest.raises((OSError, ValueError), match=expected):
            part(2, step).save(path, dist.group.WORLD)
        assert Checkpoint.load(folder).round == 1

    part(1, step=1).save(folder, dist.group.WORLD)
    with patch.object(round_folder._RoundWriter, "write_data", failing) if rank == 1 else nullcontext():
        refused("No space left on device", guilty=1)
    refused(".*: the workers do not agree on state/step: 0 and 1", guilty=0, step=rank)
    elsewhere = folder.with_name(f"{rank}")
    refused(".*: the part of worker 1 is missing; do all workers", guilty=0, path=elsewhere if rank else folder)
    part(2, step=2).save(folder, dist.group.WORLD)
    own = Checkpoint.load(folder, [f"{rank}.weight"])
    own.check({f"{rank}.weight": torch.zeros(2)})
    assert own.round == 2 and own.state == {"step": 2}
