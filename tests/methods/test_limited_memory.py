"""The direction against the BFGS formula in dense algebra, with vectors cut into two workers' parts."""

import pytest
import torch
from torch import Tensor

from surmin.methods.quasi_newton import limited_memory
from surmin.methods.quasi_newton.limited_memory import LimitedMemory, Projection

SIZE, CUT = 7, 3
SCALES = [1.0, 1e-3, 10.0]


def dense_inverse(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """H ← (I - ρ s yᵀ) H (I - ρ y sᵀ) + ρ s sᵀ for one pair after the other, from γ I of the last."""
    identity = torch.eye(SIZE, dtype=torch.float64)
    last_step, last_change = pairs[-1]
    inverse = identity * (last_step @ last_change) / (last_change @ last_change)
    for step, change in pairs:
        curvature = step @ change
        left = identity - torch.outer(step, change) / curvature
        inverse = left @ inverse @ left.T + torch.outer(step, step) / curvature
    return inverse


class TwoWorkers:
    """Both parts' memories, fed as two workers would be."""

    def __init__(self, gradient: Tensor) -> None:
        self.memories = [LimitedMemory(), LimitedMemory()]
        self.gradient = gradient
        self.projection: Projection | None = None
        self.projection = self.visit(torch.zeros(SIZE, dtype=torch.float64), gradient)

    def visit(self, step: Tensor, gradient: Tensor) -> Projection:
        change = gradient - self.gradient
        parts = [[vector[:CUT], vector[CUT:]] for vector in (step, change, gradient)]
        own = list(zip(self.memories, *parts, strict=True))
        products = sum(memory.products(*vectors) for memory, *vectors in own)
        assert isinstance(products, Tensor)
        summed = products.cpu()  # as `total` gives them
        found = [memory.extended(s, y, summed, self.projection) for memory, s, y, _ in own]
        self.memories, self.gradient, self.projection = [memory for memory, _ in found], gradient, found[0][1]
        return found[0][1]

    def direction(self) -> tuple[Tensor, float]:
        assert self.projection is not None
        squared = float(self.gradient @ self.gradient)
        halves = (self.gradient[:CUT], self.gradient[CUT:])
        found = [m.direction(half, squared, self.projection) for m, half in zip(self.memories, halves, strict=True)]
        assert found[0][1] == found[1][1]
        return torch.cat([part for part, _ in found]), found[0][1]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("history", [3, 100])
def test_the_direction_is_that_of_bfgs(scale: float, history: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_memory, "HISTORY", history)
    torch.manual_seed(0)
    root = torch.randn(SIZE, SIZE, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(SIZE, dtype=torch.float64)
    workers = TwoWorkers(torch.randn(SIZE, dtype=torch.float64))
    direction, slope = workers.direction()
    assert torch.equal(direction, -workers.gradient)
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(6):
        step = scale * torch.randn(SIZE, dtype=torch.float64)
        pairs.append((step, hessian @ step))
        workers.visit(step, workers.gradient + pairs[-1][1])
        direction, slope = workers.direction()
        expected = -dense_inverse(pairs[-history:]) @ workers.gradient
        torch.testing.assert_close(direction, expected, rtol=1e-9, atol=1e-9 * float(expected.norm()))
        assert slope == pytest.approx(float(workers.gradient @ expected), rel=1e-9)
    assert len(workers.memories[0].steps) == min(history, 6)


def test_a_pair_without_convexity_is_left_out() -> None:
    torch.manual_seed(1)
    workers = TwoWorkers(torch.randn(SIZE, dtype=torch.float64))
    step = torch.randn(SIZE, dtype=torch.float64)
    workers.visit(step, workers.gradient - step)
    assert workers.memories[0].steps == ()
    workers.visit(step, workers.gradient + step)
    assert len(workers.memories[0].steps) == 1
