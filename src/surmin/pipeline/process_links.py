"""Links between workers that are processes, over torch's process groups."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.pipeline.channel import Receiver, Route, Sender, Shape
from surmin.pipeline.links import Kind
from surmin.pipeline.traffic import Traffic
from surmin.replicas import Replicas

STATUS_BYTES = 1024
UPWARDS = ("forward", "prediction", "up")
STATUS_TAG = 0
Status = tuple[str, str]
"""A worker's complaint, empty for none, and what it is about to do."""


class ProcessLinks:
    """Of one worker among those that hold a network's stages, in the order of `ranks`.

    Forward and gradient waves share a process group; the curvature wave and the small messages have their own, so that
    none of them waits behind another's large ones.

    Args:
        ranks: of the workers, from the one with the first stage to the one with the last.
        blocks: by kind ("layer", "stage") how many blocks with parameters every worker holds.
        routes: by wave: "activations", "curvature" and "control".
        replicas: that hold the same stages; with all their workers batches are compared.
    """

    def __init__(
        self, ranks: Sequence[int], blocks: dict[str, list[int]], routes: dict[str, Route], replicas: Replicas
    ) -> None:  # fmt: skip
        self._ranks = list(ranks)
        self._place = self._ranks.index(dist.get_rank())
        self._blocks = blocks
        self._routes = routes
        self._replicas = replicas
        self._tags: dict[Kind, int] = {}
        self._senders: dict[tuple[int, int], Sender] = {}
        self._receivers: dict[tuple[int, int], Receiver] = {}
        self._unanswered: Status | None = None
        self._broken: str | None = None
        self.is_first, self.is_last = self._place == 0, self._place == len(ranks) - 1
        self.has_trainable_below = sum(blocks["layer"][: self._place]) > 0
        self._others = [rank for rank in self._ranks if rank != dist.get_rank()]
        status: list[Shape] = [(torch.uint8, (STATUS_BYTES,))]
        everyone_else = [rank for rank in range(dist.get_world_size()) if rank != dist.get_rank()]
        self._status = {rank: Receiver(routes["control"], rank, STATUS_TAG, status) for rank in everyone_else}
        self._tell = {rank: Sender(routes["control"], rank, STATUS_TAG, status) for rank in everyone_else}
        for receiver in self._status.values():
            receiver.prepare(2)

    def trainable_blocks(self, blocks: Literal["layer", "stage"]) -> tuple[int, int]:
        """Known since all workers told each other."""
        counts = self._blocks[blocks]
        return sum(counts[: self._place]), sum(counts)

    def prepare(self, kind: Kind, count: int) -> None:
        """Number the kind, as all workers do in the same order, and post receives."""
        tag = self._tags.setdefault(kind, len(self._tags) + 1)
        source = self._neighbour(kind, -1)
        if source is not None:
            self._receiver(source, tag, kind).prepare(count)

    def send(self, kind: Kind, message: Message) -> None:
        """To the next worker of the wave."""
        target = self._neighbour(kind, 1)
        assert target is not None
        self._sender(target, self._tags[kind], kind).send(message)

    def receive(self, kind: Kind) -> Message:
        """From the worker before in the wave."""
        self._hear_answers()
        source = self._neighbour(kind, -1)
        assert source is not None
        return self._receiver(source, self._tags[kind], kind).receive()

    def compare(self, description: str, complaint: ValueError | TypeError | None, *, wait: bool) -> None:
        """One small message from every worker to every other."""
        self._hear_answers()
        if self._broken is not None:
            raise RuntimeError(f"this pipeline cannot go on after an error in the middle of a wave: {self._broken}")
        status = ("" if complaint is None else str(complaint) or type(complaint).__name__, description)
        for sender in self._tell.values():
            sender.send((encode_status(status),))
        self._unanswered = status
        if wait or complaint is not None:
            self._hear_answers(in_wave=False)

    def total(self, values: Tensor, traffic: Traffic) -> list[float]:
        """Up the pipe, worker by worker, and from the last one directly to all: the last one waits for nothing else."""
        self._hear_answers()
        kind = ("total", len(values))
        tag = self._tags.setdefault(kind, len(self._tags) + 1)
        below, above = self._rank(self._place - 1), self._rank(self._place + 1)
        summed = values.detach().cpu()
        if below is not None:
            summed = summed + self._next(below, tag, kind)
        if self.is_last:
            summed = self._replicas.mean(summed)
        targets = self._others if self.is_last else [above]
        for target in targets:
            assert target is not None
            traffic.send((summed,))
            self._sender(target, tag, kind).send((summed,))
        if not self.is_last:
            summed = self._next(self._ranks[-1], tag, kind)
        return [float(value) for value in summed.tolist()]

    def flush(self) -> None:
        """Wait until everything has been sent."""
        for sender in (*self._senders.values(), *self._tell.values()):
            sender.flush()

    def _hear_answers(self, *, in_wave: bool = True) -> None:
        """What the other workers said to the last comparison."""
        if self._unanswered is None:
            return
        own, self._unanswered = self._unanswered, None
        told = {dist.get_rank(): own}
        for rank, receiver in self._status.items():
            (answer,) = receiver.receive()
            told[rank] = decode_status(answer)
        trouble = _trouble(dict(sorted(told.items())))
        if trouble is not None:
            self._broken = trouble if in_wave else None
            raise ValueError(trouble)

    def _next(self, peer: int, tag: int, kind: Kind) -> Tensor:
        receiver = self._receiver(peer, tag, kind)
        receiver.prepare(1)
        return receiver.receive()[0]

    def _neighbour(self, kind: Kind, step: int) -> int | None:
        """The rank one step further in the direction of the wave."""
        return self._rank(self._place + (step if kind[0] in UPWARDS else -step))

    def _rank(self, place: int) -> int | None:
        return self._ranks[place] if 0 <= place < len(self._ranks) else None

    def _route(self, kind: Kind) -> Route:
        return self._routes[{"curvature": "curvature", "total": "control"}.get(str(kind[0]), "activations")]

    def _sender(self, peer: int, tag: int, kind: Kind) -> Sender:
        if (peer, tag) not in self._senders:
            self._senders[peer, tag] = Sender(self._route(kind), peer, tag)
        return self._senders[peer, tag]

    def _receiver(self, peer: int, tag: int, kind: Kind) -> Receiver:
        if (peer, tag) not in self._receivers:
            self._receivers[peer, tag] = Receiver(self._route(kind), peer, tag)
        return self._receivers[peer, tag]


def encode_status(status: Status) -> Tensor:
    """As bytes, both parts cut to what fits."""
    half = STATUS_BYTES // 2
    parts = [part.encode()[:half].ljust(half, b"\0") for part in status]
    return torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8)


def decode_status(told: Tensor) -> Status:
    """What was encoded."""
    content, half = bytes(told.tolist()), STATUS_BYTES // 2
    complaint, description = (part.rstrip(b"\0").decode(errors="replace") for part in (content[:half], content[half:]))
    return complaint, description


def _trouble(told: dict[int, Status]) -> str | None:
    """What keeps the workers from going on, by the complaint of each and its description of what it is about to do."""
    complaints = {rank: complaint for rank, (complaint, _) in told.items() if complaint}
    if complaints:
        same = len(complaints) == len(told) and len(set(complaints.values())) == 1
        named = [complaint if same else f"worker {rank}: {complaint}" for rank, complaint in complaints.items()]
        return named[0] if same else "; ".join(named)
    (first, (_, expected)), *others = told.items()
    for rank, (_, description) in others:
        if description != expected:
            return (
                "the workers were not given the same batch: "
                f"worker {first} has {expected}; worker {rank} has {description}"
            )
    return None
