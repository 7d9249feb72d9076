"""What a worker counts is what goes out by torch's process groups, tensor by tensor, whoever hands it to them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

from surmin import StepReport
from surmin.pipeline.channel import Sender
from surmin.pipeline.comparison import STATUS_BYTES
from tests.distributed.settings import SAMPLES, Setting, make_method, running
from tests.distributed.workers import Workers

COLLECTIVES = [
    name for name in vars(dist.ProcessGroup)
    if name.startswith(("all", "_all", "broadcast", "reduce", "_reduce", "gather", "scatter", "barrier", "monitored"))
]  # fmt: skip


@dataclass
class Sent:
    """What went out in a step.

    Attributes:
        sizes: bytes of every send of a process group.
        following: of the sends, those after the first of one message, whose tensors go one by one.
        collectives: names of others of its calls.
    """

    sizes: list[int] = field(default_factory=list)
    following: int = 0
    collectives: list[str] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Sent]:
    """`isend`, `send` and `batch_isend_irecv`, which torch's schedules use, all end in a group's own `send`."""
    sent, send_tensors, send_message = Sent(), dist.ProcessGroup.send, Sender.send

    def noting_tensors(group: dist.ProcessGroup, tensors: list[Tensor], *where: Any) -> Any:
        sent.sizes += [tensor.nbytes for tensor in tensors]
        return send_tensors(group, tensors, *where)

    def noting_message(sender: Sender, message: tuple[Tensor, ...]) -> None:
        sent.following += len(message) - 1
        send_message(sender, message)

    def noting_call(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            sent.collectives.append(name)
            return call(*arguments, **options)

        return noted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist.ProcessGroup, "send", noting_tensors)
        patch.setattr(Sender, "send", noting_message)
        for name in COLLECTIVES:
            patch.setattr(dist.ProcessGroup, name, noting_call(name, getattr(dist.ProcessGroup, name)))
        yield sent


def third_step(setting: Setting) -> tuple[StepReport, Sent]:
    """By then all receivers know the shapes: no message has a header."""
    with running(setting) as pipeline:
        method, batch = make_method(pipeline, setting), setting.case.batch(SAMPLES)
        for _ in range(2):
            method.step(*batch)
        with watched() as sent:
            return method.step(*batch), sent


def setting(method: str, schedule: Any = "posted", microbatches: int = 1, workers: int = 2, **options: Any) -> Setting:
    return Setting(workers, 4, microbatches, "mlp", schedule, method, tuple(options.items()))


SETTINGS = [
    setting("gd"),
    setting("gd", "gpipe", 2),
    setting("adam"),
    setting("adam", "1f1b", 2),
    setting("dgl"),
    setting("fdg", microbatches=2),
    setting("sm"),
    setting("sm", microbatches=2),
    setting("sm", "gpipe", 2),
    setting("sm", wire="int8"),
    setting("sm", preset="trips"),
    setting("sm", microbatches=2, preset="trips"),
    setting("sm", workers=4),
]
UNCOMPARED = {"dgl", "fdg"}
"""Methods that compare a batch at the first step of its shape alone: no status messages later."""


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_what_is_counted_is_what_is_sent(workers: Workers, setting: Setting) -> None:
    statuses = 0 if setting.method in UNCOMPARED else setting.workers - 1
    for report, sent in workers.run(setting.workers, third_step, setting):
        assert sent.collectives == []
        assert sent.sizes.count(STATUS_BYTES) >= statuses
        assert report.bytes_sent == sum(sent.sizes) - statuses * STATUS_BYTES
        assert report.messages == len(sent.sizes) - sent.following - statuses
