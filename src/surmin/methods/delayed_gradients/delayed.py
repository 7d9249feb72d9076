"""Stages that step along gradients of earlier batches: none waits for the gradient of the batch now going up."""

from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from surmin.methods.common.optimizers import load_optimizer_state, optimizer_state
from surmin.methods.common.saved_states import check_keys, check_stage
from surmin.methods.common.stagewise import ACTIVATION, GRADIENT, Round, Stagewise
from surmin.methods.delayed_gradients.underway import Underway
from surmin.pipeline.reuse import NotedBatch
from surmin.pipeline.wave import part_shape
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.stage import Stage
from surmin.stages.tape import LayerParameters


class Delayed(Stagewise):
    """Each round, a batch goes up, and every stage's oldest gradient, sent in the previous round, goes one stage down.

    Legend: K stages, k = 1 … K from below; t the round; ℓ the `lag`. In round t stage k runs forward on the batch of
    round t - ℓ(k - 1). The last stage begins that batch's gradient at once. A gradient goes down one stage a round, so
    stage k steps along a batch's gradient (1 + ℓ)(K - k) rounds after running forward on it, and stays as it is until
    the first has come. The last stage's loss is reported, NaN while no batch has come there.

    The state holds the batches under way and the messages sent but not yet taken. It continues with the same stages, on
    any number of workers.

    Args:
        pipeline: the network.
        lr: learning rate of the optimizer.
        optimizer: "sgd" (momentum 0.9), "gd" or "adam".

    Raises:
        ValueError: for an unknown optimizer, a learning rate that is not positive, or a stage without a layer.
    """

    lag: ClassVar[int] = 0
    """Rounds that an activation takes to reach the stage above."""

    def __init__(self, pipeline: WorkerPipeline, *, lr: float = 1e-3, optimizer: str = "adam") -> None:
        with pipeline.agreeing():
            if not all(stage.layers for stage in pipeline.stages):
                raise ValueError("delayed gradients need a layer in every stage: leave out the empty nn.Sequential")
        super().__init__(pipeline, optimizer, lr)
        self._underway: list[deque[Underway]] = [deque() for _ in pipeline.stages]
        self._targets: deque[Tensor] = deque()
        self._shapes: list[torch.Size] = []
        self._waiting: list[tuple[str, int, torch.Size]] = []
        self._noted = NotedBatch()
        self._copied: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def weights(self, stage: Stage) -> LayerParameters | None:
        """The weights of a stage to keep for a batch going up; None to take its gradient at later weights."""

    def arrived(self, gradient: Tensor) -> Tensor:
        """What a stage makes of the gradient from the stage above."""
        return gradient

    def abandon(self) -> None:
        """Give up the batches under way: stages stay as they are until gradients of later batches have come."""
        super().abandon()
        self._underway = [deque() for _ in self.pipeline.stages]
        self._targets, self._shapes, self._waiting = deque(), [], []

    def delay(self, position: int) -> int:
        """Rounds between a batch's way up and its way down through a stage here."""
        return (1 + self.lag) * (self.exchange.stages_above + len(self.pipeline.stages) - 1 - position)

    def run(self, inputs: Tensor, targets: Tensor, found: Round) -> None:
        """One round: up, then down."""
        pipeline, stages_below = self.pipeline, self.exchange.stages_below
        positions = range(len(pipeline.stages))
        inputs, targets = self._own(inputs, targets)
        self._shapes = [inputs.shape, *self._shapes][: (1 + self.lag) * stages_below + self.delay(0) + 1]
        if pipeline.is_last:
            self._targets.append(targets)
        ages = [self.lag * (stages_below + position) for position in positions]
        self._go_up(inputs, {at: self._enter(at, self._shapes[age]) for at, age in enumerate(ages) if self._has(age)})
        for position in reversed(positions):
            if len(self._underway[position]) > self.delay(position):
                self._go_down(position, self._underway[position].popleft(), found)
        self._waiting = [
            *((ACTIVATION, at, self._shapes[age - 1]) for at, age in enumerate(ages) if age and self._has(age - 1)),
            *((GRADIENT, at, own[0].shape) for at, own in enumerate(self._underway) if 0 < len(own) == self.delay(at)),
        ]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state by parameter; by stage, batches and messages under way; waits for the latter."""
        stages = {
            stage.name: {
                "layers": len(stage.layers),
                "underway": [batch.packed() for batch in self._underway[position]],
                "waiting": {channel: self._pending(channel, position, shape) for channel, at, shape in self._waiting
                            if at == position},
            }
            for position, stage in enumerate(self.pipeline.stages)
        }  # fmt: skip
        if self.pipeline.is_last:
            stages[self.pipeline.stages[-1].name]["targets"] = list(self._targets)
        return {
            "optimizer": optimizer_state(self.optimizer, self.pipeline.parameters),
            "shapes": [list(shape) for shape in self._shapes],
            "stages": stages,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` with the same stages; those of other workers are ignored."""
        self.exchange.settle()  # before anything is refused: a worker that refuses would keep others waiting
        check_keys(state, {"optimizer", "shapes", "stages"}, "a method with delayed gradients")
        stages, microbatches = self.pipeline.stages, self.pipeline.microbatches
        own = [state["stages"].get(stage.name) for stage in stages]
        for stage, found in zip(stages, own, strict=True):
            check_stage(stage, None if found is None else found["layers"], "gradients are under way")
        for samples in {one["shape"][0] for found in own for one in (*found["underway"], *found["waiting"].values())}:
            if samples % microbatches:
                raise ValueError(
                    f"a batch of {samples} samples is under way, which {microbatches} micro-batches do not divide: "
                    "resume with the same number of micro-batches as before"
                )
        names = self.pipeline.parameters
        memory = {name: own for name, own in state["optimizer"]["memory"].items() if name in names}
        load_optimizer_state(self.optimizer, names, {**state["optimizer"], "memory": memory})
        self.exchange.forget()
        self._shapes = [torch.Size(shape) for shape in state["shapes"]]
        for shape in dict.fromkeys(self._shapes):
            self.exchange.open(shape)
        self._waiting = []
        for position, found in enumerate(own):
            self._resume_stage(position, found)
        self._targets = deque(targets.to(self.pipeline.device) for targets in own[-1].get("targets", ()))

    def _resume_stage(self, position: int, found: Mapping[str, Any]) -> None:
        stage, microbatches, device = self.pipeline.stages[position], self.pipeline.microbatches, self.pipeline.device
        self._underway[position] = deque(
            Underway.unpack(packed, stage, microbatches, device) for packed in found["underway"]
        )
        for channel, packed in found["waiting"].items():
            shape = torch.Size(packed["shape"])
            messages = [(part,) for part in self._parts(packed["whole"].to(device))]
            self.exchange.restore(channel, position, shape, messages)
            self._waiting.append((channel, position, shape))

    def _own(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """A copy of the batch, as the caller may reuse its tensors for the next; the same copy for the same batch."""
        if self._copied is None or not self._noted.is_same(inputs, targets):
            self._noted, self._copied = NotedBatch.of(inputs, targets), (inputs.clone(), targets.clone())
        return self._copied

    def _has(self, age: int) -> bool:
        """Whether there has been a batch that many rounds before the newest."""
        return age < len(self._shapes)

    def _enter(self, position: int, shape: torch.Size) -> Underway:
        stage = self.pipeline.stages[position]
        weights = self.weights(stage) if self.delay(position) else None
        self._underway[position].append(Underway(shape, stage, weights))
        return self._underway[position][-1]

    def _go_up(self, inputs: Tensor, entering: Mapping[int, Underway]) -> None:
        """Forward through the stages here, each on the batch that enters it, micro-batch by micro-batch."""
        for number, state in enumerate(self._parts(inputs)):
            for position, batch in entering.items():
                if self.pipeline.has_below(position):
                    (state,) = self.exchange.take(ACTIVATION, position, batch.shape)
                is_kept = batch.weights is not None or not self.delay(position)
                part = part_shape(batch.shape, self.pipeline.microbatches)
                with self.pipeline.tracer.span("F", number), torch.set_grad_enabled(is_kept):
                    tape = self.pipeline.forward_stage(position, state, part, batch.weights)
                batch.inputs.append(state)
                batch.tapes += [tape] * is_kept
                if self.pipeline.has_above(position):
                    self.exchange.put(ACTIVATION, position, (tape.output.detach(),), batch.shape)

    def _go_down(self, position: int, batch: Underway, found: Round) -> None:
        """A batch's gradient through a stage here."""
        part = part_shape(batch.shape, self.pipeline.microbatches)
        targets = [] if self.pipeline.has_above(position) else self._parts(self._targets.popleft())
        for number, state in enumerate(batch.inputs):
            if batch.tapes:
                tape = batch.tapes[number]
            else:
                with self.pipeline.tracer.span("F", number), torch.enable_grad():
                    tape = self.pipeline.forward_stage(position, state, part)
            if targets:
                cotangent = self.true_gradient(tape, targets[number], batch.shape[0], found)
            else:
                cotangent = self.arrived(self.exchange.take(GRADIENT, position, batch.shape)[0])
            with self.pipeline.tracer.span("B", number):
                self.carry_down(position, tape, cotangent, part, found, batch.shape)

    def _parts(self, whole: Tensor) -> Sequence[Tensor]:
        return whole.chunk(self.pipeline.microbatches)

    def _pending(self, channel: str, position: int, shape: torch.Size) -> dict[str, Any]:
        messages = self.exchange.pending(channel, position, shape, self.pipeline.microbatches)
        return {"shape": list(shape), "whole": torch.cat([message[0] for message in messages])}
