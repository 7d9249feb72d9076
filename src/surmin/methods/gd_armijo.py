"""Gradient descent with Armijo's line search on the loss itself."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from surmin.methods.common.armijo_search import ArmijoSearch, moved_against
from surmin.methods.common.checks import check_has_value, check_positive
from surmin.methods.common.loss_and_norm import total_loss_and_square
from surmin.methods.common.saved_states import check_keys
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport


class ArmijoDescent:
    """θ ← θ - α ∇h with the first of α, α/2, α/4, … that satisfies h(θ - α∇h) ≤ h - 10⁻⁴ α ‖∇h‖².

    Every trial is a forward wave and an all-reduce of its loss. The accepted trial serves as the next round's first
    wave if the batch is the same. The next search starts from twice the accepted α; after one that finds nothing, from
    half of where that started, or from the same place if its first two trials changed nothing.

    Source: "GD + Armijo" of Section 4 of the Surrogate Minimization paper; Armijo (1966).

    Args:
        pipeline: the network.
        lr: the very first α tried.

    Raises:
        ValueError: if `lr` is not positive, or the loss has no values.
    """

    def __init__(self, pipeline: WorkerPipeline, *, lr: float = 1.0) -> None:
        check_positive("lr", lr)
        check_has_value("gd-armijo", pipeline.loss)
        self.pipeline = pipeline
        self._search = ArmijoSearch(pipeline, lr)

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One line search; if no trial is good enough the parameters stay as they are."""
        meter = StepMeter(self.pipeline)
        wave = self.pipeline.forward(inputs, targets)
        gradients = self.pipeline.backward(wave)
        loss, squared = total_loss_and_square(self.pipeline, wave, gradients)
        found = self._search.descend(
            inputs, targets, partial(moved_against, gradients), squared, loss, lambda trial: trial.loss
        )
        if found.wave is not None:
            self.pipeline.accept(found.wave)
        return meter.report(
            wave.shape, loss, math.sqrt(squared), new_loss=found.value, accepted=found.wave is not None,
            tries=found.tries,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The next α to try."""
        return {"length": self._search.length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        check_keys(state, {"length"}, "a line search")
        check_positive("the state's length", state["length"])
        self._search.length = float(state["length"])
