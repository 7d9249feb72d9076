"""Messages between neighbouring stages, for methods whose messages are not the five waves.

A method goes through the stages its worker holds and lets each put messages into channels and take them from others. In
one process all stages are neighbours here; on workers the same calls reach the stages next door. A channel keeps the
order of its messages and holds them until they are taken, so that a method may take one in a later step.
"""

from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.pipeline.links import Kind, Links
from surmin.pipeline.reuse import Noted, note, same_tensors
from surmin.pipeline.validation import describe_batch
from surmin.pipeline.wave import part_shape

if TYPE_CHECKING:
    from surmin.pipeline.worker_pipeline import WorkerPipeline


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
    """

    def __init__(
        self, pipeline: "WorkerPipeline", links: Links, crossings: AbstractSet[int],
        upwards: Sequence[str], downwards: Sequence[str],
    ) -> None:  # fmt: skip
        self._pipeline = pipeline
        self._links = links
        self._crossings = crossings
        self._directions = {**dict.fromkeys(upwards, "up"), **dict.fromkeys(downwards, "down")}
        self._held: dict[tuple[Kind, int], deque[Message]] = {}
        self._outputs: dict[str, Tensor] = {}
        self._checked: Noted = ()
        self._shape = torch.Size()

    def begin(self, inputs: Tensor, targets: Tensor) -> None:
        """A step on a batch begins, on all workers.

        They compare the first batch of every shape, and try it out, uncounted; of later ones each worker checks its
        own, so that none waits for another.

        Raises:
            ValueError: when the batch does not fit; on every worker for the first one of a shape.
        """
        self._check(inputs, targets)
        self._shape = inputs.shape
        for channel in self._directions:
            self._links.prepare(self._kind(channel, inputs.shape), self._pipeline.microbatches)

    def put(self, channel: str, position: int, message: Message) -> None:
        """Send from the stage at a position to its neighbour in the channel's direction, for the current batch."""
        kind = self._kind(channel, self._shape)
        step = 1 if kind[0] == "up" else -1
        neighbour = position + step
        if 0 <= neighbour < len(self._pipeline.stages):
            if max(position, neighbour) in self._crossings:
                self._pipeline.traffic.send(message)
            self._held.setdefault((kind, neighbour), deque()).append(message)
        else:
            self._pipeline.traffic.send(message)
            self._links.send(kind, message)

    def take(self, channel: str, position: int, shape: torch.Size | None = None) -> Message:
        """The oldest message for the stage at a position; waits for it where it comes from another worker.

        Args:
            channel: its name.
            position: of the stage that receives.
            shape: of the inputs of the batch it was sent for, where that is not the current one.
        """
        kind = self._kind(channel, self._shape if shape is None else shape)
        sender = position + (-1 if kind[0] == "up" else 1)
        if 0 <= sender < len(self._pipeline.stages):
            return self._held[kind, position].popleft()
        with self._pipeline.tracer.span("W"):
            return self._links.receive(kind)

    def _kind(self, channel: str, shape: torch.Size) -> Kind:
        return (self._directions[channel], channel, shape)

    def _check(self, inputs: Tensor, targets: Tensor) -> None:
        if same_tensors(self._checked, (inputs, targets)):
            return
        pipeline = self._pipeline
        complaint = pipeline.complaint((inputs, targets))
        described = describe_batch(inputs, targets, pipeline.microbatches, False, False)
        if described not in self._outputs:
            self._links.compare(described, complaint, wait=True)
            self._outputs[described] = self._try_out(inputs)
            self._links.compare("", self._misfit(described, targets), wait=True)
        elif complaint := complaint or self._misfit(described, targets):
            raise complaint
        self._checked = note((inputs, targets))

    def _misfit(self, described: str, targets: Tensor) -> ValueError | TypeError | None:
        """What is wrong with targets for outputs of the network like those of the batch that was tried out."""
        if self._pipeline.is_last:
            try:
                self._pipeline.loss.check(self._outputs[described], targets)
            except (ValueError, TypeError) as error:
                return error
        return None

    def _try_out(self, inputs: Tensor) -> Tensor:
        """The outputs for a batch; and a micro-batch up and down every stage, so that the unit of work is known."""
        pipeline = self._pipeline
        operations = pipeline.work.operations
        part = part_shape(inputs.shape, pipeline.microbatches)
        entering, output = pipeline.pass_through(inputs)
        state = entering[: part[0]]
        for position in range(len(pipeline.stages)):
            with torch.enable_grad():
                tape = pipeline.forward_stage(position, state, part)
            pipeline.backward_stage(position, tape, torch.zeros_like(tape.output), part)
            state = tape.output.detach()
        pipeline.work.operations = operations
        return output
