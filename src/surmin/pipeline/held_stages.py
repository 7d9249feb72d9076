"""The consecutive stages of one worker, and what they do with a micro-batch: timed, and with its work counted."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from surmin.curvature.output_curvature import Message
from surmin.losses import ConvexLoss
from surmin.pipeline.checks.batches import check_microbatches
from surmin.pipeline.checks.losses import check_loss
from surmin.pipeline.leaving import apart_from, memory_of
from surmin.pipeline.links import Kind, Links, agreeing
from surmin.pipeline.seen_batches import SeenBatches
from surmin.pipeline.tracing import NULL_TRACER, Tracer
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.wave import StageParameters, Wave, part_shape
from surmin.replicas import Replicas
from surmin.stages.block import Block, cut_blocks
from surmin.stages.stage import Stage, parameters_of
from surmin.stages.tape import LayerParameters, Tape
from surmin.work import WorkMeter

Boundaries = Mapping[Stage, Sequence[int]]
"""For every stage, the layers for whose inputs the gradient must be kept on the tapes."""
Candidates = Sequence[StageParameters | None]
"""Parameters at which a forward wave runs, None for the current ones."""


class HeldStages:
    """One worker's part of the network. Micro-batches come and go over its links.

    Args:
        stages: those that this worker holds.
        loss: the convex loss of the network's output.
        microbatches: equal parts that a batch is cut into.
        links: to the workers with the stages before and after these.
        crossings: positions among these stages at which another worker's would begin, where traffic is counted.
        replicas: those that run the same stages on other shares of the batch.
        traffic: counts what this worker sends.
    """

    def __init__(
        self, stages: Sequence[Stage], loss: ConvexLoss, microbatches: int, links: Links,
        crossings: AbstractSet[int], replicas: Replicas, traffic: Traffic,
    ) -> None:  # fmt: skip
        check_loss(loss)
        check_microbatches(microbatches)
        self.stages = list(stages)
        self.loss = loss
        self.microbatches = microbatches
        self.replicas = replicas
        self.traffic = traffic
        self.work = WorkMeter()
        self.tracer: Tracer = NULL_TRACER
        self._links = links
        self._crossings = crossings
        self.batches = SeenBatches(self.stages, microbatches)

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """This worker's trainable parameters by global name, "layer index.parameter name"."""
        return parameters_of(self.stages)

    @property
    def group(self) -> ProcessGroup | None:
        """The group of all workers, over their CPUs; None in one process."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the stages here are: with their parameters, or on the CPU."""
        return next((parameter.device for parameter in self.parameters.values()), torch.device("cpu"))

    def cut(self, blocks: Literal["layer", "stage"]) -> tuple[list[list[Block]], int]:
        """The blocks of every stage here, numbered through the whole network; and how many train in all of it."""
        below, everywhere = self._links.trainable_blocks(blocks)
        cut = cut_blocks(self.stages, blocks, below)
        return cut, everywhere or sum(block.size > 0 for own in cut for block in own)

    @property
    def is_first(self) -> bool:
        """Whether the network's first stage is held here."""
        return self._links.is_first

    @property
    def is_last(self) -> bool:
        """Whether the network's last stage is held here."""
        return self._links.is_last

    def has_below(self, position: int) -> bool:
        """Whether the network has a stage below the one at a position here."""
        return position > 0 or not self.is_first

    def has_above(self, position: int) -> bool:
        """Whether the network has a stage above the one at a position here."""
        return position < len(self.stages) - 1 or not self.is_last

    def trainable_below(self, position: int) -> int:
        """Trainable layers of the network below the stage at a position here."""
        below, _ = self._links.trainable_blocks("layer")
        return below + sum(layer.size > 0 for stage in self.stages[:position] for layer in stage.layers)

    @torch.no_grad()
    def move_to(self, values: StageParameters) -> None:
        """Give the parameters here new values."""
        for stage, by_layer in values.items():
            for layer, own in zip(stage.layers, by_layer, strict=True):
                for name, value in own.items():
                    layer.parameters[name].copy_(value)

    def agreeing(self) -> AbstractContextManager[None]:
        """A context that all workers enter once they know more about the network.

        Raises:
            ValueError: on all of them, if one raises anything inside; that one raises its own error.
        """
        return agreeing(self._links)

    def agree_on(self, description: str) -> None:
        """Raise ValueError on all workers unless their descriptions agree."""
        self._links.compare(description, None, wait=True)

    def forward_part(
        self, states: Sequence[Tensor], candidates: Candidates, number: int, part: torch.Size
    ) -> list[list[Tape]]:
        """Run one micro-batch, of shape `part` where it enters the network, through the stages here at some parameters.

        Args:
            states: what enters the first stage here, for every candidate.
            candidates: parameters, None for the current ones.
            number: of the micro-batch.
            part: its shape.

        Returns:
            Tapes by candidate, then by stage.
        """
        tapes: list[list[Tape]] = [[] for _ in candidates]
        with self.tracer.span("F", number):
            for position, stage in enumerate(self.stages):
                if position in self._crossings:
                    self.traffic.send(states)
                for own, state, parameters in zip(tapes, states, candidates, strict=True):
                    own.append(self.forward_stage(position, state, part, parameters[stage] if parameters else None))
                states = [own[-1].output.detach() for own in tapes]
        return tapes

    def forward_stage(
        self, position: int, state: Tensor, part: torch.Size, parameters: LayerParameters | None = None
    ) -> Tape:
        """Run one stage here on a micro-batch of shape `part` where it enters the network."""
        with self.work.phase(("forward", part, position)):
            return self.stages[position].forward(state, parameters)

    def backward_part(
        self, wave: Wave, number: int, cotangent: Tensor, boundaries: Boundaries | None,
        total: dict[Stage, list[Tensor]],
    ) -> Tensor | None:  # fmt: skip
        """Take the gradient of one micro-batch down through the stages here, as far as something trains, into `total`.

        Args:
            wave: whose micro-batch it is; without `boundaries` its activations are released.
            number: of the micro-batch.
            cotangent: the gradient in the last stage's output.
            boundaries: as in `WorkerPipeline.backward`.
            total: of all micro-batches so far.

        Returns:
            The gradient in the first stage's input, None if nothing trains below that.
        """
        with self.tracer.span("B", number):
            below = self._down_to_first(wave, number, cotangent, boundaries or {}, total)
        if boundaries is None:
            for tapes in wave.tapes:
                tapes[number].release()
        return below

    def _down_to_first(
        self, wave: Wave, number: int, cotangent: Tensor, boundaries: Boundaries, total: dict[Stage, list[Tensor]]
    ) -> Tensor | None:
        for position in reversed(range(len(self.stages))):
            stage, tape = self.stages[position], wave.tapes[position][number]
            self.backward_stage(position, tape, cotangent, wave.part_shape, total, boundaries.get(stage, ()))
            if self.trainable_below(position) == 0:
                return None
            cotangent = tape.cotangents[0]
            if position in self._crossings:
                self.traffic.send((cotangent,))
        return cotangent

    def backward_stage(
        self, position: int, tape: Tape, cotangent: Tensor, part: torch.Size, total: dict[Stage, list[Tensor]],
        boundaries: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Take a gradient through one stage here; what goes down and what `boundaries` ask for is left on its tape.

        The flat gradient in every layer's parameters is added to `total`.
        """
        stage = self.stages[position]
        wanted = sorted({*boundaries, *([0] if self.has_below(position) else [])})
        with self.work.phase(("backward", part, position)):
            total[stage] = stage.backward(tape, cotangent, wanted, total.get(stage))

    def top_cotangent(self, wave: Wave, number: int) -> Tensor:
        """The gradient of the mean loss in the network's output, for one micro-batch; computed once per wave."""
        if number not in wave.cotangents:
            output = wave.tapes[-1][number].output
            wave.cotangents[number] = self.output_gradient(output, wave.targets[number], wave.shape[0])
        return wave.cotangents[number]

    @torch.no_grad()
    def output_gradient(self, outputs: Tensor, targets: Tensor, samples: int) -> Tensor:
        """The gradient of the mean loss over so many samples in the outputs of some of them."""
        return self.loss.gradient(outputs.detach(), targets) / samples

    @torch.no_grad()
    def mean_loss(self, wave: Wave) -> Tensor:
        """The mean loss on the worker with the last stage, 0 elsewhere."""
        if not self.is_last:
            return torch.zeros((), dtype=torch.float64, device=wave.targets[0].device)
        losses = [self.loss.sample_losses(*pair) for pair in zip(wave.outputs, wave.targets, strict=True)]
        return torch.cat(losses).double().mean()

    def completed(self, gradients: dict[Stage, list[Tensor]]) -> dict[Stage, list[Tensor]]:
        """What the gradient wave left, with empty vectors for stages it did not reach, where nothing trains."""
        like = next(iter(self.parameters.values()), torch.empty(0, device=self.device))
        empty = like.detach().new_zeros(0)
        return {stage: gradients.get(stage, [empty] * len(stage.layers)) for stage in self.stages}

    def averaged(self, gradients: dict[Stage, list[Tensor]]) -> dict[Stage, list[Tensor]]:
        """The mean over replicas of what the gradient wave left."""
        means = iter(self.replicas.means([flat for own in gradients.values() for flat in own]))
        return {stage: list(islice(means, len(own))) for stage, own in gradients.items()}

    @torch.inference_mode(False)  # tensors made here, such as receives posted ahead, may be trained on later
    @torch.no_grad()
    def pass_through(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What enters and what leaves the stages here for a batch; leaves no tapes and is not counted."""
        kind = ("prediction", inputs.shape)
        self._links.prepare(kind, 1)
        if self.is_first:
            entering = inputs.clone() if inputs.is_inference() else inputs
        else:
            (entering,) = self._receive(kind)
        state = entering
        for stage in self.stages:
            state = stage.output(state)
        if not self.is_last:
            self._links.send(kind, (apart_from(memory_of(inputs), state),))
        return entering, state

    def predict(self, inputs: Tensor) -> Tensor | None:
        """The network's output on the worker with the last stage, None elsewhere; no tapes, and not counted."""
        _, state = self.pass_through(inputs)
        return state if self.is_last else None

    def gradient_operations(self, shape: torch.Size) -> int:
        """Operations here of one forward and one backward wave over a batch of this shape: the unit of work."""
        part = part_shape(shape, self.microbatches)
        places = range(len(self.stages))
        up = [("forward", part, position) for position in places]
        down = [("backward", part, position) for position in places if self.trainable_below(position + 1)]
        return max(1, self.microbatches * sum(map(self.work.known, [*up, *down])))

    def _send(self, kind: Kind, message: Message) -> None:
        self.traffic.send(message)
        self._links.send(kind, message)

    def _receive(self, kind: Kind, number: int | None = None) -> Message:
        with self.tracer.span("W", number):
            return self._links.receive(kind)
