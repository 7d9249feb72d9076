"""Armijo's backtracking line search over forward waves."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from surmin.errors import NonFiniteError
from surmin.methods.common.gradients import Gradients
from surmin.pipeline.wave import StageParameters, Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline

SUFFICIENT = 1e-4
MAX_TRIES = 40


class SearchResult(NamedTuple):
    """What a line search found.

    Attributes:
        wave: at the new parameters, which the network has now; None if no trial was good enough, and the network keeps
            the old ones.
        value: of the function there; the old one if no trial was good enough.
        tries: forward waves.
        length: α of that trial; 0 if no trial was good enough.
    """

    wave: Wave | None
    value: float
    tries: int
    length: float = 0.0


class ArmijoSearch:
    """Finds the first of α, α/2, α/4, … with f(θ - α d) ≤ f(θ) - 10⁻⁴ α ⟨∇f, d⟩ and moves the network there.

    Every trial is a forward wave and an all-reduce of its value.
    The next search starts from twice the accepted α; after one that finds nothing, from half of where that started, or
    from the same place if its first two trials changed nothing, as shorter ones would tell no more.

    Source: Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives" (1966).

    Args:
        pipeline: the network.
        length: the very first α tried.
    """

    def __init__(self, pipeline: WorkerPipeline, length: float) -> None:
        self.pipeline = pipeline
        self.length = length

    def descend(
        self, inputs: Tensor, targets: Tensor, moved: Callable[[float], StageParameters], slope: float, value: float,
        evaluate: Callable[[Wave], Tensor],
    ) -> SearchResult:  # fmt: skip
        """Search against a direction, at most `MAX_TRIES` trials; none if it does not lead down.

        Args:
            inputs: the batch.
            targets: of the batch.
            moved: by α the parameters θ - α d.
            slope: ⟨∇f, d⟩ over all workers.
            value: f(θ) over all workers.
            evaluate: this worker's share of f after a forward wave, 0-dimensional.

        Raises:
            NonFiniteError: if value or slope is not finite, so that trials could not be compared.
        """
        if not (math.isfinite(value) and math.isfinite(slope)):
            raise NonFiniteError(f"the line search cannot begin at a value of {value} with a slope of {slope}")
        if slope <= 0:
            return SearchResult(None, value, 0)
        length, ties = self.length, 0
        for tries in range(1, MAX_TRIES + 1):
            there = moved(length)
            (trial,) = self.pipeline.forward_candidates(inputs, targets, [there])
            (new_value,) = self.pipeline.total(evaluate(trial).reshape(1))
            if new_value <= value - SUFFICIENT * length * slope:
                self.pipeline.move_to(there)
                self.length = 2 * length
                return SearchResult(trial, new_value, tries, length)
            length *= 0.5
            ties = ties + 1 if new_value == value else 0
            if ties == 2:  # in a row: what is left to gain is below rounding errors
                break
        if tries > ties:
            self.length *= 0.5
        return SearchResult(None, value, tries)


def moved_against(direction: Gradients, length: float) -> StageParameters:
    """The parameters θ - α d, for one flat vector d a layer."""
    return {
        stage: [layer.moved(-length * flat) for layer, flat in zip(stage.layers, own, strict=True)]
        for stage, own in direction.items()
    }
