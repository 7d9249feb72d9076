"""All stages in one process: the waves of one iteration, stage after stage, micro-batch after micro-batch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from surmin.curvature.output_curvature import BlockCurvature, Message, OutputCurvature, draw_seed
from surmin.losses import ConvexLoss
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.validation import check_batch, check_modules, check_unreplaced
from surmin.stages.block import Block
from surmin.stages.stage import LayerParameters, Stage, Tape
from surmin.work import WorkMeter

StageParameters = Mapping[Stage, LayerParameters]
"""For every stage the values of its layers' parameters."""


@dataclass
class Wave:
    """What a forward wave leaves behind.

    Attributes:
        inputs: the network's inputs, by micro-batch.
        targets: by micro-batch.
        tapes: by stage, then by micro-batch.
        loss: the mean loss h, 0-dimensional; summed in float64, so that small decreases are seen.
    """

    inputs: Sequence[Tensor]
    targets: Sequence[Tensor]
    tapes: list[list[Tape]]
    loss: Tensor = field(default_factory=lambda: torch.tensor(math.nan))

    @property
    def shape(self) -> torch.Size:
        """Shape of the whole batch of inputs."""
        return torch.Size([sum(len(part) for part in self.inputs), *self.inputs[0].shape[1:]])

    @property
    def outputs(self) -> list[Tensor]:
        """The network's outputs, by micro-batch."""
        return [tape.output.detach() for tape in self.tapes[-1]]


@dataclass(frozen=True)
class BlockWaves:
    """What the gradient and curvature waves leave in one trainable block: all it needs for its local phase.

    Attributes:
        block: the block.
        gradient: ∂h/∂θ_i, a flat vector (P,).
        curvature: the curvature of its local loss.
        tapes: its stage's tapes, by micro-batch.
        messages: the output curvature that arrived at its output, by micro-batch.
        shape: shape of the whole batch of the network's inputs; equal shapes mean equal work.
    """

    block: Block
    gradient: Tensor
    curvature: BlockCurvature
    tapes: Sequence[Tape]
    messages: Sequence[Message]
    shape: torch.Size


class InProcessPipeline:
    """Stages one after the other on one device, counting what would cross between them.

    Args:
        stages: one module per stage; running them in order is running the network.
        loss: the convex loss of the last stage's output.
        microbatches: equal parts that a batch is cut into.

    Raises:
        ValueError: when a module cannot be trained this way, saying which and why.
    """

    def __init__(self, stages: Sequence[nn.Module], loss: ConvexLoss, *, microbatches: int = 1) -> None:
        check_modules(stages)
        if microbatches < 1:
            raise ValueError(f"microbatches must be at least 1, got {microbatches}")
        self.loss = loss
        self.microbatches = microbatches
        self.stages: list[Stage] = []
        for module in stages:
            self.stages.append(Stage.of(module, sum(len(stage.layers) for stage in self.stages)))
        self.traffic = Traffic()
        self.work = WorkMeter()
        self._checked: tuple[Tensor, int, Tensor, int] | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by global name, "layer index.parameter name"."""
        return {
            f"{layer.name}.{name}": parameter
            for stage in self.stages
            for layer in stage.layers
            for name, parameter in layer.parameters.items()
        }

    def forward(self, inputs: Tensor, targets: Tensor) -> Wave:
        """Run the batch through all stages (wave 1). With gradients enabled, `backward` takes the result, once.

        Raises:
            ValueError: when the batch does not fit the network, the loss or the number of micro-batches.
        """
        fresh = not self._is_checked(inputs, targets)
        if fresh:
            check_batch(inputs, targets, self.microbatches, next(iter(self.parameters.values())))
        check_unreplaced(self.stages)
        wave = self._run(inputs, targets, None)
        if fresh:
            self._check_targets(wave)
            self._checked = (inputs, inputs._version, targets, targets._version)
        self.traffic.forward_waves += 1
        self._evaluate(wave)
        return wave

    def forward_candidates(self, inputs: Tensor, targets: Tensor, candidates: Sequence[StageParameters]) -> list[Wave]:
        """Run the batch at several other parameters in one wave (wave 5), each as micro-batches of its own."""
        waves = [self._run(inputs, targets, parameters) for parameters in candidates]
        self.traffic.forward_waves += 1
        for wave in waves:
            self._evaluate(wave)
        return waves

    def gradient_operations(self, shape: torch.Size) -> int:
        """Operations of one forward and one backward wave over a batch of this shape: the unit of work."""
        return max(1, self.work.known(("forward", shape)) + self.work.known(("backward", shape)))

    @torch.no_grad()
    def backward(
        self, wave: Wave, boundaries: Mapping[Stage, Sequence[int]] | None = None
    ) -> dict[Stage, list[Tensor]]:
        """Send the gradient down (wave 2).

        Args:
            wave: of a forward pass with gradients enabled.
            boundaries: layers in whose inputs the gradient must be kept on the tapes.

        Returns:
            For every stage the gradient of the mean loss in each layer's parameters, one flat vector a layer.
        """
        total: dict[Stage, list[Tensor]] = {}
        samples = wave.shape[0]
        with self.work.phase(("backward", wave.shape)):
            for number, (output, targets) in enumerate(zip(wave.outputs, wave.targets, strict=True)):
                cotangent = self.loss.gradient(output, targets) / samples
                for position in reversed(range(len(self.stages))):
                    stage, tape = self.stages[position], wave.tapes[position][number]
                    wanted = sorted({*(boundaries or {}).get(stage, ()), *([0] if position else [])})
                    gradients = stage.backward(tape, cotangent, wanted)
                    known = total.get(stage)
                    total[stage] = [a + b for a, b in zip(known, gradients, strict=True)] if known else gradients
                    if position:
                        cotangent = tape.cotangents[0]
                        self.traffic.send([cotangent])
        return total

    @torch.no_grad()
    def curvature(
        self, wave: Wave, gradients: Mapping[Stage, list[Tensor]], blocks: Sequence[Sequence[Block]],
        curvature: OutputCurvature, seed: int,
    ) -> list[BlockWaves]:  # fmt: skip
        """Send the output curvature down (wave 3).

        Args:
            wave: after `backward`.
            gradients: what `backward` returned.
            blocks: the blocks of every stage.
            curvature: what kind of curvature goes down.
            seed: for its random draws; the same seed gives the same draws however the network is cut.

        Returns:
            Every trainable block with its share, from the first to the last.
        """
        found: list[BlockWaves] = []
        with self.work.phase(("curvature", wave.shape)):
            messages = curvature.top(self.loss, wave.outputs, wave.targets, draw_seed(seed, -1))
            for position in reversed(range(len(self.stages))):
                tapes = wave.tapes[position]
                for block in reversed(blocks[position]):
                    own, below = curvature.descend(block, tapes, messages, draw_seed(seed, block.index))
                    if block.size:
                        gradient = torch.cat(gradients[self.stages[position]][block.start : block.stop])
                        found.append(BlockWaves(block, gradient, own, tapes, messages, wave.shape))
                    if block.index == 0:
                        return found[::-1]
                    messages = below
                for message in messages:
                    self.traffic.send(message)
        raise AssertionError("a network has a first trainable block")

    def total(self, values: Tensor) -> list[float]:
        """Sum numbers over all stages: the one collective of an iteration. In one process they are summed already."""
        self.traffic.all_reduce(len(values), len(self.stages))
        return [float(value) for value in values.tolist()]

    def _run(self, inputs: Tensor, targets: Tensor, parameters: StageParameters | None) -> Wave:
        parts = inputs.chunk(self.microbatches)
        tapes: list[list[Tape]] = [[] for _ in self.stages]
        with self.work.phase(("forward", inputs.shape)):
            for part in parts:
                state = part
                for position, stage in enumerate(self.stages):
                    if position:
                        self.traffic.send([state])
                    tapes[position].append(stage.forward(state, parameters[stage] if parameters else None))
                    state = tapes[position][-1].output.detach()
        return Wave(parts, targets.chunk(self.microbatches), tapes)

    def _evaluate(self, wave: Wave) -> None:
        losses = [self.loss.sample_losses(*pair) for pair in zip(wave.outputs, wave.targets, strict=True)]
        wave.loss = torch.cat(losses).double().mean()

    def _check_targets(self, wave: Wave) -> None:
        for output, targets in zip(wave.outputs, wave.targets, strict=True):
            if len(output) != len(targets):
                raise ValueError(f"the network returned {len(output)} rows for a micro-batch of {len(targets)} samples")
            self.loss.check(output, targets)

    def _is_checked(self, inputs: Tensor, targets: Tensor) -> bool:
        if self._checked is None:
            return False
        known_inputs, inputs_version, known_targets, targets_version = self._checked
        return (
            inputs is known_inputs and inputs._version == inputs_version
            and targets is known_targets and targets._version == targets_version
        )  # fmt: skip
