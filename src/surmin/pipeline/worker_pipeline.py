"""The five waves over the consecutive stages that one worker holds; what they are linked by is not known here.

In one process one worker holds all stages. The waves then still count what would cross between workers.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from surmin.curvature.output_curvature import Message, OutputCurvature, draw_seed
from surmin.losses import ConvexLoss
from surmin.pipeline.descent import Descent
from surmin.pipeline.exchange import Exchange
from surmin.pipeline.links import Kind, Links
from surmin.pipeline.reuse import AcceptedWave, Noted, note, same_tensors
from surmin.pipeline.tracing import NULL_TRACER, Tracer
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.validation import check_batch, check_outputs, check_unreplaced, describe_batch
from surmin.pipeline.wave import BlockWaves, StageParameters, Wave, part_shape
from surmin.replicas import Replicas
from surmin.stages.block import Block, cut_blocks
from surmin.stages.stage import LayerParameters, Stage, Tape
from surmin.work import WorkMeter

Boundaries = Mapping[Stage, Sequence[int]]
"""For every stage the layers in whose inputs the gradient must be kept on the tapes."""


class WorkerPipeline:
    """One worker's part of the network, and the waves through it.

    Args:
        stages: that this worker holds.
        loss: the convex loss of the network's output.
        microbatches: equal parts that a batch is cut into.
        links: to the workers with the stages before and after these.
        crossings: positions among these stages at which another worker's would begin, where traffic is counted.
        replicas: that run the same stages on other shares of the batch.
        traffic: where what this worker sends is counted.
    """

    def __init__(
        self, stages: Sequence[Stage], loss: ConvexLoss, microbatches: int, links: Links,
        crossings: AbstractSet[int], replicas: Replicas, traffic: Traffic,
    ) -> None:  # fmt: skip
        if microbatches < 1:
            raise ValueError(f"microbatches must be at least 1, got {microbatches}")
        self.stages = list(stages)
        self.loss = loss
        self.microbatches = microbatches
        self.replicas = replicas
        self.traffic = traffic
        self.work = WorkMeter()
        self.tracer: Tracer = NULL_TRACER
        self._links = links
        self._crossings = crossings
        self._checked: Noted = ()
        self._accepted: AcceptedWave | None = None
        self._exchanges: list[Exchange] = []

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """This worker's trainable parameters by global name, "layer index.parameter name"."""
        return {
            f"{layer.name}.{name}": parameter
            for stage in self.stages
            for layer in stage.layers
            for name, parameter in layer.parameters.items()
        }

    def cut(self, blocks: Literal["layer", "stage"]) -> tuple[list[list[Block]], int]:
        """The blocks of every stage here, numbered through the whole network; and how many train in all of it."""
        below, everywhere = self._links.trainable_blocks(blocks)
        cut = cut_blocks(self.stages, blocks, below)
        return cut, everywhere or sum(block.size > 0 for own in cut for block in own)

    def forward(self, inputs: Tensor, targets: Tensor, boundaries: Boundaries | None = None) -> Wave:
        """Run the batch through all stages (wave 1). With gradients enabled, `backward` takes the result, once.

        With the same tensors as an accepted wave, and parameters untouched since, that wave is returned.

        Args:
            inputs: the whole batch, the same on every worker of the pipe; its replicas have others as large.
            targets: of the whole batch.
            boundaries: what `backward` will be asked to keep, for schedules that run it together with this wave.

        Raises:
            ValueError: on every worker, when the batch does not fit the network, the loss or the number of
                micro-batches, or is not the same on all workers.
        """
        accepted, self._accepted = self._accepted, None
        is_known = same_tensors(self._checked, (inputs, targets))
        is_reused = accepted is not None and accepted.fits(inputs, targets, self.stages)
        complaint = self.complaint(None if is_known else (inputs, targets))
        described = describe_batch(inputs, targets, self.microbatches, is_known, is_reused)
        self._links.compare(described, complaint, wait=not is_known)
        if accepted is not None and is_reused:
            return accepted.wave
        wave = self._run_first(inputs, targets, boundaries or {})
        if not is_known:
            with torch.no_grad():
                complaint = check_outputs(self.loss, wave) if self.is_last else None
            self._links.compare("", complaint, wait=True)
            self._checked = note((inputs, targets))
        wave.loss = self.mean_loss(wave)
        return wave

    def forward_candidates(self, inputs: Tensor, targets: Tensor, candidates: Sequence[StageParameters]) -> list[Wave]:
        """Run the batch at several other parameters in one wave (wave 5), each as micro-batches of its own."""
        waves = self._run(inputs, targets, candidates)
        for wave in waves:
            wave.loss = self.mean_loss(wave)
        return waves

    @torch.no_grad()
    def move_to(self, values: StageParameters) -> None:
        """Give the parameters here other values."""
        for stage, by_layer in values.items():
            for layer, own in zip(stage.layers, by_layer, strict=True):
                for name, value in own.items():
                    layer.parameters[name].copy_(value)

    def accept(self, wave: Wave, inputs: Tensor, targets: Tensor) -> None:
        """Keep a wave that was run at what are the parameters now: it is the next iteration's first wave."""
        self._accepted = AcceptedWave.of(wave, inputs, targets, self.stages)

    def complaint(self, batch: tuple[Tensor, Tensor] | None) -> ValueError | TypeError | None:
        """What is wrong with the network and a new batch, if there is one, as far as this worker can see."""
        try:
            check_unreplaced(self.stages)
            if batch is not None:
                check_batch(*batch, self.microbatches, next(iter(self.parameters.values()), None))
        except (ValueError, TypeError) as error:
            return error
        return None

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
        """How many layers with parameters lie below the stage at a position here, or for one more below the next."""
        below, _ = self._links.trainable_blocks("layer")
        return below + sum(layer.size > 0 for stage in self.stages[:position] for layer in stage.layers)

    def predict(self, inputs: Tensor) -> Tensor | None:
        """The network's output, where the last stage is held, None elsewhere; leaves no tapes and is not counted."""
        _, state = self.pass_through(inputs)
        return state if self.is_last else None

    @torch.no_grad()
    def pass_through(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What enters and what leaves the stages here for a batch; leaves no tapes and is not counted."""
        kind = ("prediction", inputs.shape)
        self._links.prepare(kind, 1)
        state = entering = inputs if self.is_first else self._receive(kind)[0]
        for stage in self.stages:
            for layer in stage.layers:
                state = layer.forward(state)
        if not self.is_last:
            self._links.send(kind, (state,))
        return entering, state

    def exchange(self, upwards: Sequence[str] = (), downwards: Sequence[str] = ()) -> Exchange:
        """Channels between neighbouring stages, by the names of those that lead up and of those that lead down."""
        made = Exchange(self, self._links, self._crossings, upwards, downwards, len(self._exchanges))
        self._exchanges.append(made)
        return made

    def count_sent(self, tensor: Tensor, *, upwards: bool) -> None:
        """Count what somebody else sends to the next stage, or to the one before."""
        if not (self.is_last if upwards else self.is_first):
            self.traffic.send((tensor,))

    def gradient_operations(self, shape: torch.Size) -> int:
        """Operations here of one forward and one backward wave over a batch of this shape: the unit of work."""
        part = part_shape(shape, self.microbatches)
        keys = [(wave, part, position) for wave in ("forward", "backward") for position in range(len(self.stages))]
        return max(1, self.microbatches * sum(map(self.work.known, keys)))

    @torch.no_grad()
    def backward(
        self, wave: Wave, boundaries: Boundaries | None = None, top: Callable[[int], Tensor] | None = None
    ) -> dict[Stage, list[Tensor]]:
        """Send the gradient down (wave 2).

        Args:
            wave: of a forward pass with gradients enabled.
            boundaries: layers in whose inputs the gradient must be kept on the tapes.
            top: by micro-batch the gradient in the network's output to begin with, where it is another function's than
                the mean loss; only asked where the last stage is.

        Returns:
            For every stage the gradient of the mean loss in each layer's parameters, one flat vector a layer; over the
            batches of all replicas.
        """
        if wave.gradients is not None and top is None:
            return wave.gradients
        total: dict[Stage, list[Tensor]] = {}
        kind = ("gradient", wave.shape)
        self._links.prepare(kind, len(wave.targets))
        for number in range(len(wave.targets)):
            if self.is_last:
                cotangent = self.top_cotangent(wave, number) if top is None else top(number)
            else:
                (cotangent,) = self._receive(kind, number)
            below = self.backward_part(wave, number, cotangent, boundaries or {}, total)
            if below is not None:
                self._send(kind, (below,))
        return self.averaged(total)

    @torch.no_grad()
    def curvature(
        self, wave: Wave, gradients: Mapping[Stage, list[Tensor]], blocks: Sequence[Sequence[Block]],
        curvature: OutputCurvature, seed: int,
    ) -> list[BlockWaves]:  # fmt: skip
        """Send the output curvature down (wave 3), message by message.

        Args:
            wave: after `backward`.
            gradients: what `backward` returned.
            blocks: the blocks of every stage here.
            curvature: what kind of curvature goes down.
            seed: for its random draws; the same seed gives the same draws however the network is cut.

        Returns:
            Every trainable block here with its share, from the first to the last.
        """
        sizes = curvature.message_sizes(wave.shape[0], len(wave.targets))
        kinds: list[Kind] = [("curvature", wave.shape, repr(curvature), size) for size in sizes]
        for kind, count in Counter(kinds).items():
            self._links.prepare(kind, count)
        if not (self._links.has_trainable_below or any(block.size for own in blocks for block in own)):
            return []
        descent = Descent(wave, blocks, curvature, seed, partial(self._cross, curvature=curvature), self._descending)
        leaving = descent.through_all(self._arriving(wave, curvature, seed, kinds))
        for number, message in enumerate(leaving):
            self._send(kinds[number], curvature.pack(message))
        with self.tracer.span("C"):
            return descent.found(gradients)

    def total(self, values: Tensor) -> list[float]:
        """Sum numbers over all stages: the one collective of an iteration. The same numbers come out on every worker.

        Args:
            values: (numbers,), this worker's share.
        """
        with self.tracer.span("A"):
            return self._links.total(values.double(), self.traffic)

    def forward_part(
        self, state: Tensor, parameters: StageParameters | None, number: int, part: torch.Size
    ) -> list[Tape]:
        """Run one micro-batch, of shape `part` where it enters the network, through the stages here."""
        tapes = []
        with self.tracer.span("F", number):
            for position, stage in enumerate(self.stages):
                if position in self._crossings:
                    self.traffic.send((state,))
                tapes.append(self.forward_stage(position, state, part, parameters[stage] if parameters else None))
                state = tapes[-1].output.detach()
        return tapes

    def forward_stage(
        self, position: int, state: Tensor, part: torch.Size, parameters: LayerParameters | None = None
    ) -> Tape:
        """Run one stage here on a micro-batch of shape `part` where it enters the network."""
        with self.work.phase(("forward", part, position)):
            return self.stages[position].forward(state, parameters)

    def backward_part(
        self, wave: Wave, number: int, cotangent: Tensor, boundaries: Boundaries, total: dict[Stage, list[Tensor]]
    ) -> Tensor | None:
        """Take the gradient of one micro-batch down through the stages here, adding to `total`.

        Returns:
            The gradient in the first stage's input, None at the network's own input.
        """
        with self.tracer.span("B", number):
            for position in reversed(range(len(self.stages))):
                stage, tape = self.stages[position], wave.tapes[position][number]
                gradients = self.backward_stage(position, tape, cotangent, wave.part_shape, boundaries.get(stage, ()))
                known = total.get(stage)
                total[stage] = [a + b for a, b in zip(known, gradients, strict=True)] if known else gradients
                if self.has_below(position):
                    cotangent = tape.cotangents[0]
                if position in self._crossings:
                    self.traffic.send((cotangent,))
        return None if self.is_first else cotangent

    def backward_stage(
        self, position: int, tape: Tape, cotangent: Tensor, part: torch.Size, boundaries: Sequence[int] = ()
    ) -> list[Tensor]:
        """Take a gradient through one stage here, leaving on its tape what goes down and what `boundaries` ask for.

        Returns:
            The gradient in every layer's parameters, flat.
        """
        wanted = sorted({*boundaries, *([0] if self.has_below(position) else [])})
        with self.work.phase(("backward", part, position)):
            return self.stages[position].backward(tape, cotangent, wanted)

    def averaged(self, gradients: dict[Stage, list[Tensor]]) -> dict[Stage, list[Tensor]]:
        """The mean over replicas of what the gradient wave left."""
        means = iter(self.replicas.means([flat for own in gradients.values() for flat in own]))
        return {stage: list(islice(means, len(own))) for stage, own in gradients.items()}

    def top_cotangent(self, wave: Wave, number: int) -> Tensor:
        """The gradient of the mean loss in the network's output, for one micro-batch."""
        return self.loss.gradient(wave.outputs[number], wave.targets[number]) / wave.shape[0]

    def _run_first(self, inputs: Tensor, targets: Tensor, boundaries: Boundaries) -> Wave:
        (wave,) = self._run(inputs, targets, [None])
        return wave

    def _run(self, inputs: Tensor, targets: Tensor, candidates: Sequence[StageParameters | None]) -> list[Wave]:
        parts, labels = inputs.chunk(self.microbatches), targets.chunk(self.microbatches)
        kind = ("forward", inputs.shape)
        self._links.prepare(kind, len(candidates) * len(parts))
        waves = []
        for parameters in candidates:
            by_part = []
            for number, part in enumerate(parts):
                state = part if self.is_first else self._receive(kind, number)[0]
                by_part.append(self.forward_part(state, parameters, number, part.shape))
                if not self.is_last:
                    self._send(kind, (by_part[-1][-1].output.detach(),))
            waves.append(Wave(inputs.shape, labels, [list(tapes) for tapes in zip(*by_part, strict=True)]))
        self.traffic.forward_waves += 1
        return waves

    def mean_loss(self, wave: Wave) -> Tensor:
        """The mean loss where the last stage is, 0 elsewhere."""
        if not self.is_last:
            return torch.zeros((), dtype=torch.float64, device=wave.targets[0].device)
        losses = [self.loss.sample_losses(*pair) for pair in zip(wave.outputs, wave.targets, strict=True)]
        return torch.cat(losses).double().mean()

    def _arriving(self, wave: Wave, curvature: OutputCurvature, seed: int, kinds: Sequence[Kind]) -> Iterable[Message]:
        if not self.is_last:
            return (curvature.unpack(self._receive(kind, number)) for number, kind in enumerate(kinds))
        with self.tracer.span("C"), self.work.phase(("curvature", wave.shape, repr(curvature), "top")):
            own_seed = self.replicas.own_seed(draw_seed(seed, -1))
            return curvature.top(self.loss, wave.outputs, wave.targets, own_seed)

    @contextmanager
    def _descending(self, number: int, key: Hashable) -> Iterator[None]:
        with self.tracer.span("C", number), self.work.phase(key):
            yield

    def _cross(self, message: Message, position: int, curvature: OutputCurvature) -> Message:
        """What arrives at the stage before `position`, which may be another worker's."""
        if position not in self._crossings:
            return message
        packed = curvature.pack(message)
        self.traffic.send(packed)
        return curvature.unpack(packed)

    def _send(self, kind: Kind, message: Message) -> None:
        self.traffic.send(message)
        self._links.send(kind, message)

    def _receive(self, kind: Kind, number: int | None = None) -> Message:
        with self.tracer.span("W", number):
            return self._links.receive(kind)
