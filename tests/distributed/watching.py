"""Watching what goes out by torch's process groups, whoever hands it to them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

from surmin.pipeline.channel import Sender

COLLECTIVES = [
    name for name in vars(dist.ProcessGroup)
    if name.startswith(("all", "_all", "broadcast", "reduce", "_reduce", "gather", "scatter", "barrier", "monitored"))
]  # fmt: skip
RECEIVES = ["recv", "recv_anysource"]


@dataclass
class Sent:
    """What went out, and when something was handed to a process group.

    Attributes:
        sizes: bytes of every send of a process group.
        following: of the sends, those after the first of one message, whose tensors go one by one.
        collectives: names of others of its calls.
        moments: of all calls, receives too, ns.
    """

    sizes: list[int] = field(default_factory=list)
    following: int = 0
    collectives: list[str] = field(default_factory=list)
    moments: list[int] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Sent]:
    """`isend`, `send` and `batch_isend_irecv`, which torch's schedules use, all end in a group's own `send`."""
    sent, send_message = Sent(), Sender.send

    def note_tensors(_group: dist.ProcessGroup, tensors: list[Tensor], *_: Any) -> None:
        sent.sizes += [tensor.nbytes for tensor in tensors]

    def noting_message(sender: Sender, message: tuple[Tensor, ...]) -> None:
        sent.following += len(message) - 1
        send_message(sender, message)

    def noting_call(call: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            sent.moments.append(time.perf_counter_ns())
            note(*arguments)
            return call(*arguments, **options)

        return noted

    notes: dict[str, Callable[..., None]] = {"send": note_tensors, **dict.fromkeys(RECEIVES, lambda *_: None)}
    notes |= {name: lambda *_, name=name: sent.collectives.append(name) for name in COLLECTIVES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sender, "send", noting_message)
        for name, note in notes.items():
            patch.setattr(dist.ProcessGroup, name, noting_call(getattr(dist.ProcessGroup, name), note))
        yield sent
