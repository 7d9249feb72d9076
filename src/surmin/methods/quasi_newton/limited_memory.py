"""The curvature that L-BFGS remembers, for vectors whose parts lie on several workers.

Legend: s a step and y the change of the gradient along it, the rows of S and Y (m, P), oldest first; g the gradient;
R the upper triangle of S Yᵀ with diagonal D, γ = sᵀy / yᵀy of the newest pair. The approximate inverse Hessian is
H g = γ g + Sᵀ q - γ Yᵀ p with p = R⁻¹ S g and q = R⁻ᵀ (D p + γ Y Yᵀ p - γ Y g): the two-loop recursion in the compact
form of Byrd, Nocedal and Schnabel (1994). Vectors enter only through inner products (Chen, Wang and Zhou 2014), of
which a new point needs those with g and with the newest y.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

HISTORY = 100
SMALLEST_CURVATURE = 1e-10


def _no_numbers() -> Tensor:
    return torch.zeros(0, 0, dtype=torch.float64)


@dataclass(frozen=True)
class LimitedMemory:
    """Pairs (s, y), at most `HISTORY`; immutable, `extended` makes the next one.

    Attributes:
        steps: this worker's part of every s, flat; oldest first.
        changes: likewise for every y.
        mixed: R, s_i·y_j over all workers for i ≤ j, float64 (m, m) on the CPU.
        squared: y_i·y_j likewise for i ≤ j.
    """

    steps: Sequence[Tensor] = ()
    changes: Sequence[Tensor] = ()
    mixed: Tensor = field(default_factory=_no_numbers)
    squared: Tensor = field(default_factory=_no_numbers)

    def products(self, step: Tensor, change: Tensor, gradient: Tensor) -> Tensor:
        """This worker's share of the 2m + 5 inner products that `extended` needs, float64, to be summed over workers.

        They are those of g with S, `step`, Y, `change` and itself, then of `change` with `step` and itself.
        """
        wide, row = gradient.double(), torch.empty_like(gradient, dtype=torch.float64)  # one buffer for all rows
        on_gradient = [row.copy_(own) @ wide for own in (*self.steps, step, *self.changes, change, gradient)]
        wide = change.double()
        return torch.stack([*on_gradient, row.copy_(step) @ wide, wide @ wide])

    def extended(
        self, step: Tensor, change: Tensor, products: Tensor, last: "Projection | None"
    ) -> tuple["LimitedMemory", "Projection"]:
        """The memory with one more pair, if the loss is convex along it, and the projection of the gradient there.

        Args:
            step: s.
            change: y.
            products: summed over all workers, on the CPU.
            last: of the gradient before the step; None if no step was taken, and then there is no pair.
        """
        on_steps, on_changes = products[:-3].chunk(2)
        if last is None or not products[-2] > SMALLEST_CURVATURE:
            return self, Projection(on_steps[:-1], on_changes[:-1])
        mixed = _bordered(self.mixed, torch.cat([on_steps[:-1] - last.on_steps, products[-2:-1]]))
        squared = _bordered(self.squared, torch.cat([on_changes[:-1] - last.on_changes, products[-1:]]))
        kept = slice(-HISTORY, None)
        memory = LimitedMemory(
            (*self.steps, step)[kept], (*self.changes, change)[kept],
            mixed[kept, kept].contiguous(), squared[kept, kept].contiguous(),  # as a loaded one is, to the last bit
        )  # fmt: skip
        return memory, Projection(on_steps[kept], on_changes[kept])

    def direction(self, gradient: Tensor, squared_norm: float, projection: "Projection") -> tuple[Tensor, float]:
        """This worker's part of -H g, and the slope -gᵀ H g of the loss along it."""
        scale = float(self.mixed[-1, -1] / self.squared[-1, -1]) if self.steps else 1.0
        square = self.squared + self.squared.triu(1).T
        p = _solved(self.mixed, projection.on_steps)
        right = self.mixed.diagonal() * p + scale * (square @ p - projection.on_changes)
        q = _solved(self.mixed.T, right, upper=False)
        direction = -scale * gradient
        shares = zip(self.steps, q.tolist(), self.changes, (scale * p).tolist(), strict=True)
        for step, step_share, change, change_share in shares:
            direction.sub_(step, alpha=step_share).add_(change, alpha=change_share)
        return direction, float(scale * (p @ projection.on_changes) - q @ projection.on_steps) - scale * squared_norm


@dataclass(frozen=True)
class Projection:
    """Inner products of a gradient with a memory's vectors, over all workers; float64 (m,) on the CPU.

    Attributes:
        on_steps: S g.
        on_changes: Y g.
    """

    on_steps: Tensor
    on_changes: Tensor


def _bordered(upper: Tensor, column: Tensor) -> Tensor:
    """An upper triangular matrix with one more column."""
    grown = pad(upper, (0, 1, 0, 1))
    grown[:, -1] = column
    return grown


def _solved(triangle: Tensor, right: Tensor, *, upper: bool = True) -> Tensor:
    return torch.linalg.solve_triangular(triangle, right.unsqueeze(1), upper=upper).squeeze(1)
