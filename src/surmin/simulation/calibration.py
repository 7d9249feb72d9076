"""What a message costs the CPUs at its ends, measured by two processes that send each other some."""

import multiprocessing
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from surmin.launch.group import keep_to_loopback
from surmin.pipeline.channel import Receiver, Route, Sender
from surmin.simulation.operations import Overheads

SMALL, LARGE = 64, 1 << 20
"""Bytes of the messages exchanged."""
COUNT, TURNS, WARM_UP = 16, 20, 3
PATIENCE = 60.0


def measure_overheads() -> Overheads:
    """CPU time at each end, for a message and for a byte of it; takes some seconds, mostly for imports.

    Raises:
        RuntimeError: if the processes do not finish.
    """
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "rendezvous")
        ends = [spawn.Process(target=_run_end, args=(rank, store, answers), daemon=True) for rank in range(2)]
        for end in ends:
            end.start()
        try:
            small, large = (sum(pair) / 2 for pair in zip(*(answers.get(timeout=PATIENCE) for _ in ends), strict=True))
        except Exception as error:
            raise RuntimeError("what messages cost was not measured: two processes did not reach each other") from error
        finally:
            for end in ends:
                end.join(PATIENCE)
    byte = max(0.0, (large - small) / (LARGE - SMALL))
    return Overheads(max(0.0, small - SMALL * byte), byte)


def _run_end(rank: int, store: str, answers: Any) -> None:
    torch.set_num_threads(1)
    keep_to_loopback()
    patience = timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=patience)
    assert dist.group.WORLD is not None
    route = Route.of_processor(dist.group.WORLD)
    answers.put([_seconds(rank, route, tag, size) for tag, size in ((1, SMALL), (2, LARGE))])
    dist.barrier()
    dist.destroy_process_group()


def _seconds(rank: int, route: Route, tag: int, size: int) -> float:
    """CPU time of this end for one message sent or received."""
    sender, receiver = Sender(route, 1 - rank, tag), Receiver(route, 1 - rank, tag)
    content = torch.zeros(size // 4)

    def send() -> None:
        for _ in range(COUNT):
            sender.send((content,))

    def receive() -> None:
        receiver.prepare(COUNT)
        for _ in range(COUNT):
            receiver.receive()

    began = 0.0
    for turn in range(WARM_UP + TURNS):
        if turn == WARM_UP:
            began = time.process_time()
        for act in (send, receive) if rank == 0 else (receive, send):
            act()
    sender.flush()
    return (time.process_time() - began) / (2 * TURNS * COUNT)
