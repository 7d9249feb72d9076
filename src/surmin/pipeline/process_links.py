"""Links between workers that are processes, over torch's process groups."""

from collections.abc import Sequence
from typing import Literal

import torch.distributed as dist
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.pipeline.channel import Receiver, Route, Sender
from surmin.pipeline.comparison import StatusComparison
from surmin.pipeline.links import Kind
from surmin.pipeline.traffic import Traffic
from surmin.replicas import Replicas

UPWARDS = ("forward", "prediction", "up")
RUNNING_AHEAD = ("up", "down")
"""Kinds whose messages may be taken long after they were sent, after others that followed them."""
ROUNDS_AHEAD = 4
"""Rounds that a worker may be ahead in these before it waits, as messages under way take memory."""
ROUTES = {"curvature": "curvature", "total": "control", "up": "channels", "down": "channels", "prediction": "channels"}
"""By kind; all others use "activations"."""
CLOSED = "this pipeline was closed: make another one, on all workers"


class ProcessLinks:
    """Links of one worker among those that hold a network's stages, in the order of their pipe.

    Forward and gradient waves share a process group; the curvature wave and the small messages have their own, so that
    none of them waits behind another's large ones. What two workers may not send and receive in the same order goes
    over "channels", which must tell messages apart by their tags: NCCL does not.

    Args:
        pipes: ranks of every pipe's workers, from the one with the first stage to the one with the last; all pipes hold
            the same stages, and this worker is in one of them.
        stages: number of stages of every worker.
        blocks: by kind ("layer", "stage"), number of blocks with parameters of every worker.
        routes: "activations", "curvature", "channels" and "control".
        replicas: those that hold the same stages; batches are compared with all their workers.
    """

    def __init__(
        self, pipes: Sequence[Sequence[int]], stages: Sequence[int], blocks: dict[str, list[int]],
        routes: dict[str, Route], replicas: Replicas,
    ) -> None:  # fmt: skip
        places = {rank: place for pipe in pipes for place, rank in enumerate(pipe)}
        self._place = places[dist.get_rank()]
        self._ranks = next(list(pipe) for pipe in pipes if dist.get_rank() in pipe)
        self._stages = stages
        self._blocks = blocks
        self._routes = routes
        self._replicas = replicas
        self._tags: dict[Kind, int] = {}
        self._senders: dict[tuple[int, int], Sender] = {}
        self._receivers: dict[tuple[int, int], Receiver] = {}
        self.is_first, self.is_last = self._place == 0, self._place == len(self._ranks) - 1
        self._others = [rank for rank in self._ranks if rank != dist.get_rank()]
        self._comparison = StatusComparison(places, routes["control"])
        self._is_closed = False

    def trainable_blocks(self, blocks: Literal["layer", "stage"]) -> tuple[int, int]:
        """Known since all workers exchanged it."""
        counts = self._blocks[blocks]
        return sum(counts[: self._place]), sum(counts)

    def stages_beyond(self) -> tuple[int, int]:
        """Known since all workers exchanged it."""
        return sum(self._stages[: self._place]), sum(self._stages[self._place + 1 :])

    def prepare(self, kind: Kind, count: int) -> None:
        """Number the kind, as all workers do in the same order, post receives, and check whether messages will come."""
        self._check_open()
        tag = self._tags.setdefault(kind, len(self._tags) + 1)
        source = self._neighbour(kind, -1)
        if source is not None:
            self._receiver(source, tag, kind).prepare(count)
        target = self._neighbour(kind, 1)
        if target is not None:
            self._sender(target, tag, kind).prepare(ROUNDS_AHEAD * count if kind[0] in RUNNING_AHEAD else count)
        self._hear_for(kind)

    def send(self, kind: Kind, message: Message) -> None:
        """To the next worker of the wave."""
        target = self._neighbour(kind, 1)
        assert target is not None
        self._sender(target, self._tags[kind], kind).send(message)

    def receive(self, kind: Kind) -> Message:
        """From the worker before in the wave."""
        source = self._neighbour(kind, -1)
        assert source is not None
        return self._receiver(source, self._tags[kind], kind).receive()

    def compare(self, description: str, complaint: ValueError | TypeError | None, *, wait: bool) -> None:
        """One small message from every worker to every other."""
        self._check_open()
        self._comparison.tell(description, "" if complaint is None else str(complaint) or type(complaint).__name__)
        if wait or complaint is not None:
            self._comparison.hear(in_wave=not wait)

    def total(self, values: Tensor, traffic: Traffic) -> list[float]:
        """Up the pipe, worker by worker, and from the last one directly to all: the last one waits for nothing else."""
        self._comparison.hear()
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

    def break_off(self, error: BaseException) -> None:
        """The next comparison and those after it tell all workers."""
        self._comparison.break_off(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """The process groups are about to go."""
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError(CLOSED)

    def flush(self) -> None:
        """Wait until everything has been sent."""
        for sender in self._senders.values():
            sender.flush()
        self._comparison.flush()

    def _hear_for(self, kind: Kind) -> None:
        """Hear the last comparison from the workers, and their replicas, that a wave passes on its way to this one.

        If one of them refuses, no message would come. The others may have started a link's latency later: they are
        heard before the next wave the other way, or the next sum.
        """
        places = range(self._place + 1) if kind[0] in UPWARDS else range(self._place, len(self._ranks))
        self._comparison.hear(places)

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
        return self._routes[ROUTES.get(str(kind[0]), "activations")]

    def _sender(self, peer: int, tag: int, kind: Kind) -> Sender:
        if (peer, tag) not in self._senders:
            self._senders[peer, tag] = Sender(self._route(kind), peer, tag)
        return self._senders[peer, tag]

    def _receiver(self, peer: int, tag: int, kind: Kind) -> Receiver:
        if (peer, tag) not in self._receivers:
            self._receivers[peer, tag] = Receiver(self._route(kind), peer, tag)
        return self._receivers[peer, tag]
