"""Ψ: a model of the loss as a function of a stage's output, through which its local loss is minimised.

Legend: f̄ the output at the expansion point, g the gradient of the mean loss there (per sample, already divided by n),
R the columns of the output curvature on the q sampled rows, κ the inflation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from torch import Tensor

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.gauss_newton import projection, weighted_sum
from surmin.curvature.output_curvature import Message
from surmin.curvature.sampling import thinned, traces_of
from surmin.losses import ConvexLoss


@dataclass(frozen=True)
class OutputPoint:
    """Ψ at one output.

    Attributes:
        value: Ψ over this replica's samples, 0-dimensional.
        cotangent: computes ∇Ψ, (n, *out), reusing what the value needed.
    """

    value: Tensor
    cotangent: Callable[[], Tensor]


class OutputSurrogate(Protocol):
    """A convex function of a stage's outputs (n, *out), with what a Gauss-Newton method needs from it."""

    @property
    def inflation(self) -> float:
        """κ, by which `columns` must be scaled."""

    def at(self, output: Tensor) -> OutputPoint:
        """Ψ at an output."""

    def columns(self, output: Tensor, fraction: float, seed: int) -> Message:
        """Columns R of q samples with ∇²Ψ = (κ/q) R Rᵀ, and the rows they belong to (left out: all).

        Args:
            output: where to evaluate.
            fraction: of the samples with curvature; below 1 they are drawn, and ∇²Ψ is only the mean over draws.
            seed: of the draw.
        """

    def inflated(self, inflation: float) -> "OutputSurrogate":
        """The same function with another κ."""


@dataclass(frozen=True)
class QuadraticSurrogate:
    """Ψ(z) = Σ_j ⟨g_j, z_j - f̄_j⟩ + (κ/2q) Σ_j ‖R_jᵀ(z_j - f̄_j)‖², from the gradient and curvature waves.

    Attributes:
        center: f̄, (n, *out).
        gradient: g, (n, *out).
        message: R, and the rows it belongs to (left out: all).
        samples: q, how many samples carry the curvature.
        inflation: κ.
    """

    center: Tensor
    gradient: Tensor
    message: Message
    samples: int
    inflation: float = 1.0

    def at(self, output: Tensor) -> OutputPoint:
        """Ψ, 0 at f̄, and g + (κ/q) R Rᵀ(z - f̄)."""
        change = output - self.center
        projected = self._project(change)
        curved = self.inflation / (2 * self.samples) * projected.square().sum()
        return OutputPoint((self.gradient * change).sum() + curved, lambda: self._cotangent(projected))

    def columns(self, output: Tensor, fraction: float, seed: int) -> Message:
        """R, the same everywhere, or a part of it."""
        return self.message if fraction == 1 else thinned(self.message, self._traces, fraction, seed)

    def inflated(self, inflation: float) -> "QuadraticSurrogate":
        """The same quadratic with another κ."""
        return replace(self, inflation=inflation)

    @cached_property
    def _traces(self) -> Tensor:
        return traces_of(self.message[0])

    def _project(self, change: Tensor) -> Tensor:
        """Rᵀ(z - f̄) on the rows that carry curvature, (k, q)."""
        columns, *rows = self.message
        return projection(columns, change[rows[0]] if rows else change)

    def _cotangent(self, projected: Tensor) -> Tensor:
        """g + (κ/q) R c, where c = Rᵀ(z - f̄)."""
        columns, *rows = self.message
        lifted = weighted_sum(columns, self.inflation / self.samples * projected)
        return self.gradient.index_add(0, rows[0], lifted) if rows else self.gradient + lifted


@dataclass(frozen=True)
class NetworkLoss:
    """Ψ = h: the last stage knows the loss itself, and minimises it when no other stage moves at the same time.

    Attributes:
        loss: of the network's output.
        targets: of the whole batch.
        curvature: chooses columns and rows.
        inflation: κ.
    """

    loss: ConvexLoss
    targets: Tensor
    curvature: FactorCurvature
    inflation: float = 1.0

    def at(self, output: Tensor) -> OutputPoint:
        """The mean loss, summed in float64, and its gradient in the output."""
        value = self.loss.sample_losses(output, self.targets).double().mean()
        return OutputPoint(value, lambda: self.loss.gradient(output, self.targets) / len(self.targets))

    def columns(self, output: Tensor, fraction: float, seed: int) -> Message:
        """The columns of ∇²ℓ at this output."""
        part = replace(self.curvature, fraction=fraction * self.curvature.fraction)
        (message,) = part.top(self.loss, [output], [self.targets], seed)
        return message

    def inflated(self, inflation: float) -> "NetworkLoss":
        """The same loss, its curvature treated as κ times as large."""
        return replace(self, inflation=inflation)
