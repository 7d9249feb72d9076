"""Armijo's backtracking line search over forward waves, and gradient descent with it on the loss itself."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surmin.errors import NonFiniteError
from surmin.methods.common.checks import check_has_value, check_positive
from surmin.methods.common.gradients import Gradients, squared_norm
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.wave import StageParameters, Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport

SUFFICIENT = 1e-4
MAX_TRIES = 40


class SearchResult(NamedTuple):
    """What a line search found.

    Attributes:
        wave: at the new parameters, which the network has now; None where no trial was good enough, and then it keeps
            the old ones.
        value: of the function there; the old one where no trial was good enough.
        tries: forward waves.
    """

    wave: Wave | None
    value: float
    tries: int


class ArmijoSearch:
    """Finds the first of α, α/2, α/4, … with f(θ - α d) ≤ f(θ) - 10⁻⁴ α ⟨∇f, d⟩ and moves the network there.

    Every trial is a forward wave and an all-reduce of its value.
    The next search starts from twice the accepted α; after one that finds nothing, from half of where that began, or
    from there again where its first two trials changed nothing: shorter ones would tell no more.

    Source: Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives" (1966).

    Args:
        pipeline: the network.
        length: the very first α tried.
    """

    def __init__(self, pipeline: WorkerPipeline, length: float) -> None:
        self.pipeline = pipeline
        self.length = length

    def descend(
        self, inputs: Tensor, targets: Tensor, direction: Gradients, slope: float, value: float,
        evaluate: Callable[[Wave], Tensor],
    ) -> SearchResult:  # fmt: skip
        """Search against a direction, at most `MAX_TRIES` trials; none where it leads nowhere down.

        Args:
            inputs: the batch.
            targets: of the batch.
            direction: d, one flat vector a layer.
            slope: ⟨∇f, d⟩ over all workers.
            value: f(θ) over all workers.
            evaluate: this worker's share of f after a forward wave, 0-dimensional.

        Raises:
            NonFiniteError: when value or slope is not finite: no trial could be told from another.
        """
        if not (math.isfinite(value) and math.isfinite(slope)):
            raise NonFiniteError(f"the line search cannot begin at a value of {value} with a slope of {slope}")
        if slope <= 0:
            return SearchResult(None, value, 0)
        length, ties = self.length, 0
        for tries in range(1, MAX_TRIES + 1):
            moved = _moved(direction, length)
            (trial,) = self.pipeline.forward_candidates(inputs, targets, [moved])
            (new_value,) = self.pipeline.total(evaluate(trial).reshape(1))
            if new_value <= value - SUFFICIENT * length * slope:
                self.pipeline.move_to(moved)
                self.length = 2 * length
                return SearchResult(trial, new_value, tries)
            length *= 0.5
            ties = ties + 1 if new_value == value else 0
            if ties == 2:  # in a row: what is left to gain is below rounding errors
                break
        if tries > ties:
            self.length *= 0.5
        return SearchResult(None, value, tries)


def _moved(direction: Gradients, length: float) -> StageParameters:
    return {
        stage: [layer.moved(-length * flat) for layer, flat in zip(stage.layers, own, strict=True)]
        for stage, own in direction.items()
    }


class ArmijoDescent:
    """θ ← θ - α ∇h with the first of α, α/2, α/4, … that satisfies h(θ - α∇h) ≤ h - 10⁻⁴ α ‖∇h‖².

    Every trial is a forward wave and an all-reduce of its loss. The accepted trial serves as the next round's first
    wave where the batch is the same. The next search starts from twice the accepted α; after one that finds nothing,
    from half of where that began, or from there again where its first two trials changed nothing.

    Source: "GD + Armijo" of Section 4 of the Surrogate Minimization paper; Armijo (1966).

    Args:
        pipeline: the network.
        lr: the very first α tried.

    Raises:
        ValueError: when `lr` is not positive; for a loss without values.
    """

    def __init__(self, pipeline: WorkerPipeline, *, lr: float = 1.0) -> None:
        check_positive("lr", lr)
        check_has_value("gd-armijo", pipeline.loss)
        self.pipeline = pipeline
        self._search = ArmijoSearch(pipeline, lr)

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One line search; when no trial is good enough the parameters stay as they are."""
        meter = StepMeter(self.pipeline)
        wave = self.pipeline.forward(inputs, targets)
        gradients = self.pipeline.backward(wave)
        loss, squared = self.pipeline.total(torch.stack([wave.loss, squared_norm(gradients).to(wave.loss)]))
        found = self._search.descend(inputs, targets, gradients, squared, loss, lambda trial: trial.loss)
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
        if set(state) != {"length"}:
            raise ValueError(f"not the state of a line search: {sorted(state)}")
        check_positive("the state's length", state["length"])
        self._search.length = float(state["length"])
