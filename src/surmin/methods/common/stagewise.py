"""What methods that message neighbouring stages have in common: a round, its gradients, and the optimizer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surmin.losses import ConvexLoss
from surmin.methods.common.gradients import squared_norm
from surmin.methods.common.optimizers import load_optimizer_state, make_optimizer, optimizer_state, step_along
from surmin.methods.common.saved_states import check_keys
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.stages.stage import Stage
from surmin.stages.tape import Tape

ACTIVATION, GRADIENT = "activation", "gradient"
"""The usual names of channels: the first leads up, the second down."""


class Round:
    """What a round finds in the stages here, summed over micro-batches.

    Attributes:
        gradients: of the mean loss over the whole batch in every layer's parameters, flat, by stage if it has any.
    """

    def __init__(self, loss: ConvexLoss) -> None:
        self.gradients: dict[Stage, list[Tensor]] = {}
        self._loss = loss
        self._losses: list[Tensor] = []

    @torch.no_grad()
    def score(self, output: Tensor, targets: Tensor) -> None:
        """Note the losses of a micro-batch, on the worker with the network's output."""
        self._losses.append(self._loss.sample_losses(output.detach(), targets))

    @property
    def loss(self) -> float:
        """The mean loss of all that was scored; NaN if nothing was."""
        return float(torch.cat(self._losses).double().mean()) if self._losses else math.nan


class Stagewise(ABC):
    """A method whose stages exchange messages with their neighbours, with a torch optimizer stepping along gradients.

    A round checks the batch, lets `run` find gradients, averages them over replicas and steps. A stage that found none
    stays as it is, and all do if `run` fails. The loss is reported on the worker with the last stage and is NaN
    elsewhere; the gradient norm is that of the worker's own part.

    Args:
        pipeline: the network.
        optimizer: "sgd" (momentum 0.9), "gd" or "adam".
        lr: its learning rate.
        downwards: names of the channels that lead to the stage below.

    Raises:
        ValueError: for an unknown optimizer, or a learning rate that is not positive.
    """

    def __init__(
        self, pipeline: WorkerPipeline, optimizer: str, lr: float, downwards: Sequence[str] = (GRADIENT,)
    ) -> None:
        self.pipeline = pipeline
        self.optimizer = make_optimizer(pipeline.parameters.values(), optimizer, lr)
        self.exchange = pipeline.exchange((ACTIVATION,), downwards)

    @abstractmethod
    def run(self, inputs: Tensor, targets: Tensor, found: Round) -> None:
        """The round's messages and gradients, the latter into `found`; the batch has been checked."""

    def prepare(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise for an unsuitable batch, before anything is sent."""
        self.exchange.begin(inputs, targets)

    def abandon(self) -> None:
        """Called when a round has failed midway: nothing of it may reach the next one."""
        self.exchange.abandon()

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One round on the batch."""
        meter = StepMeter(self.pipeline)
        self.pipeline.forget()  # stages may begin to move on some workers before others
        self.prepare(inputs, targets)
        found = Round(self.pipeline.loss)
        try:
            self.run(inputs, targets, found)
        except BaseException:
            self.abandon()
            raise
        self.pipeline.traffic.forward_waves += 1
        gradients = self.pipeline.averaged(found.gradients)
        with self.pipeline.tracer.span("U"):
            step_along(self.optimizer, gradients)
        return meter.report(inputs.shape, found.loss, math.sqrt(float(squared_norm(gradients))))

    def true_gradient(self, tape: Tape, targets: Tensor, samples: int, found: Round) -> Tensor:
        """The gradient of the mean loss over the batch's samples in the network's output; notes the losses."""
        found.score(tape.output, targets)
        return self.pipeline.output_gradient(tape.output, targets, samples)

    def carry_down(
        self, position: int, tape: Tape, cotangent: Tensor, part: torch.Size, found: Round,
        batch: torch.Size | None = None,
    ) -> None:  # fmt: skip
        """Take a micro-batch's gradient to a stage's parameters and to the stage below; `batch` is `shape` of `put`."""
        self.pipeline.backward_stage(position, tape, cotangent, part, found.gradients)
        if self.pipeline.has_below(position):
            self.exchange.put(GRADIENT, position, (tape.cotangents[0],), batch)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's memory and settings by parameter."""
        return {"optimizer": optimizer_state(self.optimizer, self.pipeline.parameters)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        check_keys(state, {"optimizer"}, "a method with an optimizer alone")
        load_optimizer_state(self.optimizer, self.pipeline.parameters, state["optimizer"])


def parts_of(inputs: Tensor, targets: Tensor, microbatches: int) -> list[tuple[Tensor, Tensor]]:
    """The batch's micro-batches."""
    return list(zip(inputs.chunk(microbatches), targets.chunk(microbatches), strict=True))
