"""Messages between neighbouring stages, for methods whose messages are not the five waves.

A method goes through the stages its worker holds, lets each put messages into channels and takes them from others. In
one process all stages are neighbours here; on workers the same calls reach the stages next door. A channel keeps its
messages in order and holds them until they are taken, so that a method may take one in a later step.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

import torch
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.pipeline.held_stages import HeldStages
from surmin.pipeline.leaving import apart_from, memory_of
from surmin.pipeline.links import Kind, Links
from surmin.pipeline.trying_out import check_without_wave


class Exchange:
    """Channels between every stage here and the stages above and below it.

    Made by `WorkerPipeline.exchange`. Positions count the stages here. All messages that a channel carries for batches
    of one shape have equal shapes.

    Args:
        pipeline: holds the stages.
        links: to the workers with the stages before and after these.
        crossings: positions at which another worker's stages would begin, where traffic is counted.
        upwards: names of the channels that lead to the stage above.
        downwards: names of the channels that lead to the stage below.
        number: tells this exchange's messages from those of others on the same links that may still be under way.

    Attributes:
        stages_below: number of stages in the network below those here.
        stages_above: number of stages above them.
        output_shape: of one sample of the network's output; known from the first batch on.
    """

    output_shape = torch.Size()

    def __init__(
        self, pipeline: HeldStages, links: Links, crossings: AbstractSet[int],
        upwards: Sequence[str], downwards: Sequence[str], number: int,
    ) -> None:  # fmt: skip
        self._pipeline = pipeline
        self._links = links
        self._crossings = crossings
        self._directions = {**dict.fromkeys(upwards, "up"), **dict.fromkeys(downwards, "down")}
        self._number = number
        self._held: defaultdict[tuple[Kind, int], deque[Message]] = defaultdict(deque)
        self._opened: dict[Kind, None] = {}
        self._sent: Counter[Kind] = Counter()
        self._received: Counter[Kind] = Counter()
        self._shape = torch.Size()
        self._memory = 0
        self._is_lost = False
        self.stages_below, self.stages_above = links.stages_beyond()

    def begin(self, inputs: Tensor, targets: Tensor) -> None:
        """Begin a step on a batch, on all workers.

        They compare the first batch of every shape, and try it out, uncounted; later ones each worker checks on its
        own, so that none waits for another.

        Raises:
            ValueError: if the batch does not fit; on every worker for the first one of a shape.
            RuntimeError: if a step was abandoned here before.
        """
        if self._is_lost:
            raise RuntimeError(
                "a step failed in the middle on this worker, and messages of it may still come: build the method "
                "again, on all workers"
            )
        self.output_shape = check_without_wave(self._pipeline, self._links, inputs, targets)
        self._shape, self._memory = inputs.shape, memory_of(inputs)
        self.open(inputs.shape)

    def open(self, shape: torch.Size) -> None:
        """Allow messages for batches of this shape, as for a batch seen before training was resumed.

        All workers call this with the same shapes in the same order.
        """
        for channel in self._directions:
            kind = self._kind(channel, shape)
            self._opened[kind] = None
            self._links.prepare(kind, self._pipeline.microbatches)

    def put(self, channel: str, position: int, message: Message, shape: torch.Size | None = None) -> None:
        """Send from the stage at a position to its neighbour in the channel's direction.

        Args:
            channel: its name.
            position: of the sending stage.
            message: tensors that are not written to afterwards.
            shape: of the inputs of the batch it belongs to, if not the current one.
        """
        kind = self._kind(channel, self._shape if shape is None else shape)
        neighbour = position + (1 if kind[0] == "up" else -1)
        if 0 <= neighbour < len(self._pipeline.stages):
            if max(position, neighbour) in self._crossings:
                self._pipeline.traffic.send(message)
            self._held[kind, neighbour].append(message)
        else:
            self._pipeline.traffic.send(message)
            self._links.send(kind, tuple(apart_from(self._memory, tensor) for tensor in message))
            self._sent[kind] += 1

    def take(self, channel: str, position: int, shape: torch.Size | None = None) -> Message:
        """The oldest message for the stage at a position; waits for it if it comes from another worker.

        Args:
            channel: its name.
            position: of the receiving stage.
            shape: of the inputs of the batch it belongs to, if not the current one.
        """
        kind = self._kind(channel, self._shape if shape is None else shape)
        held = self._held[kind, position]
        return held.popleft() if held else self._receive(kind, position)

    def pending(self, channel: str, position: int, shape: torch.Size, count: int) -> list[Message]:
        """The oldest messages for the stage at a position, which `take` will still return; waits for them.

        Args:
            channel: its name.
            position: of the receiving stage.
            shape: of the inputs of the batch they belong to.
            count: how many; they have been sent, or will be without this worker's help.
        """
        kind = self._kind(channel, shape)
        held = self._held[kind, position]
        while len(held) < count:
            held.append(self._receive(kind, position))
        return list(held)[:count]

    def restore(self, channel: str, position: int, shape: torch.Size, messages: Sequence[Message]) -> None:
        """Hold messages that were pending when training was interrupted, as if they had just come."""
        self._held[self._kind(channel, shape), position].extend(messages)

    def forget(self) -> None:
        """Drop all messages that are here and were not taken; after `settle`, no more can come."""
        self._held.clear()
        self._is_lost = False

    def abandon(self) -> None:
        """Called when a step failed midway. Over workers, no other can begin before all `settle` and `forget`."""
        self.forget()
        self._is_lost = not (self._pipeline.is_first and self._pipeline.is_last)

    @contextmanager
    def abandoned_on_failure(self) -> Iterator[None]:
        """If the code inside fails, the messages it put and took are abandoned."""
        try:
            yield
        except BaseException:
            self.abandon()
            raise

    def settle(self) -> None:
        """Receive what other workers have sent to this one, so that they need not wait; called by all."""
        self._settle("up", 0)
        self._settle("down", len(self._pipeline.stages) - 1)

    def _settle(self, way: str, receiver: int) -> None:
        kinds = [kind for kind in self._opened if kind[0] == way]
        sent = self._told_of([self._sent[kind] for kind in kinds], way)
        for kind, count in zip(kinds, sent, strict=True):
            while self._received[kind] < count:
                self._held[kind, receiver].append(self._receive(kind, receiver))

    def _told_of(self, sent: list[int], way: str) -> list[int]:
        """What the previous worker in that direction has sent, by kind; the next one is told about this worker."""
        ends = (self._pipeline.is_first, self._pipeline.is_last)
        begins_here, ends_here = ends if way == "up" else reversed(ends)
        kind = (way, "sent", len(sent), self._number)
        self._links.prepare(kind, 1)
        if sent and not ends_here:
            self._links.send(kind, (torch.tensor(sent),))
        return [0] * len(sent) if begins_here or not sent else self._links.receive(kind)[0].tolist()

    def _receive(self, kind: Kind, position: int) -> Message:
        sender = position + (-1 if kind[0] == "up" else 1)
        if 0 <= sender < len(self._pipeline.stages):
            raise RuntimeError(f"the stage at {position} takes a message of {kind} that was not put")
        with self._pipeline.tracer.span("W"):
            message = self._links.receive(kind)
        self._received[kind] += 1
        return message

    def _kind(self, channel: str, shape: torch.Size) -> Kind:
        return (self._directions[channel], channel, shape, self._number)
