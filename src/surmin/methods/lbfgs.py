"""L-BFGS with a strong-Wolfe line search, torch's own."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surmin.methods.base import StepMeter
from surmin.methods.gradients import assign_gradients, squared_norm
from surmin.methods.optimizer_state import load_named_state, named_state
from surmin.pipeline.in_process import InProcessPipeline
from surmin.report import StepReport

EVALUATIONS_PER_SEARCH = 26  # the first trial of torch's line search and at most 25 more


class Lbfgs:
    """A round is `inner_steps` L-BFGS iterations on one batch.

    Every evaluation of the loss is a forward and a backward wave and an all-reduce of two numbers; the further inner
    products that a distributed L-BFGS would have to sum are not counted. torch's stopping tolerances hold: a round ends
    early where the gradient or the change is below 1e-7 and 1e-9.

    Args:
        pipeline: the network.
        lr: step length that each line search tries first.
        inner_steps: iterations per round.
    """

    def __init__(self, pipeline: InProcessPipeline, *, lr: float = 1.0, inner_steps: int = 20) -> None:
        self.pipeline = pipeline
        self.optimizer = torch.optim.LBFGS(
            pipeline.parameters.values(),
            lr=lr,
            max_iter=inner_steps,
            max_eval=inner_steps * EVALUATIONS_PER_SEARCH,
            line_search_fn="strong_wolfe",
        )

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One round on the batch."""
        meter = StepMeter(self.pipeline)
        evaluated: list[tuple[float, float]] = []

        def closure() -> float:
            wave = self.pipeline.forward(inputs, targets)
            gradients = self.pipeline.backward(wave)
            assign_gradients(gradients)
            loss, squared = self.pipeline.total(torch.stack([wave.loss, squared_norm(gradients)]))
            evaluated.append((loss, squared))
            return loss

        self.optimizer.step(closure)
        self.optimizer.zero_grad()
        loss, squared = evaluated[0]
        return meter.report(inputs.shape, loss, math.sqrt(squared), tries=len(evaluated) - 1)

    def state_dict(self) -> dict[str, Any]:
        """Past steps and gradients, under the name of the first parameter, where torch keeps them."""
        return named_state(self.optimizer, self.pipeline.parameters)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        load_named_state(self.optimizer, self.pipeline.parameters, state)
