"""Steps to test, and where they start from.

Legend: θ̄ the current parameters, d a step, h the network's loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from surmin.acceptance.damping import Damping
from surmin.local_phase import Problem
from surmin.pipeline.wave import StageParameters, Wave
from surmin.solvers.result import SolverResult


@dataclass(frozen=True)
class Point:
    """The current parameters with everything that waves 1 to 3 left there.

    Attributes:
        inputs: the whole batch.
        targets: of the whole batch.
        loss: h(θ̄), 0-dimensional.
        problems: what every trainable block must minimise.
        gradient_square: ‖∂h/∂θ‖², 0-dimensional.
        previous: the last accepted step by the parameters' global names; None before there is one.
    """

    inputs: Tensor
    targets: Tensor
    loss: Tensor
    problems: Sequence[Problem]
    gradient_square: Tensor
    previous: Mapping[str, Tensor] | None


@dataclass(frozen=True)
class Candidate:
    """A computed step, and where it leads.

    Attributes:
        damping: the damping it was computed with.
        results: of every block's solver.
        steps: d of every block: the solver's step, plus a share of the previous step if momentum is tried.
        parameters: θ̄ + d, as new tensors.
        wave: the forward wave there; None if steps are not tested.
        new_loss: h(θ̄ + d), NaN if steps are not tested.
        predicted: the decrease of the local losses, summed over all workers.
    """

    damping: Damping
    results: Sequence[SolverResult]
    steps: Sequence[Tensor]
    parameters: StageParameters
    wave: Wave | None
    new_loss: float
    predicted: float


@dataclass(frozen=True)
class Attempt:
    """Candidates, and what the workers' sums say about the point they start from.

    Attributes:
        candidates: the steps.
        loss: h(θ̄).
        gradient_square: ‖∂h/∂θ‖² at θ̄.
    """

    candidates: Sequence[Candidate]
    loss: float
    gradient_square: float


class Order(Protocol):
    """The order in which blocks solve and activations move."""

    def attempt(self, point: Point, dampings: Sequence[Damping], momenta: Sequence[float]) -> Attempt:
        """Candidates for all dampings and shares of the previous step, with one forward wave for all of them."""
