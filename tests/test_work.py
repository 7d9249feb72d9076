"""Counted operations against a count by hand."""

import pytest
import torch
from torch import nn

from surmin import SquaredError, SurrogateMinimizer
from surmin.work import WorkMeter

N, D, H, C = 10, 6, 5, 3


def test_matrix_products_convolutions_and_factorizations() -> None:
    def counted(function, *arguments: torch.Tensor) -> int:
        work = WorkMeter()
        work.counted("once", function)(*arguments)
        return work.operations

    a, b = torch.randn(4, 5), torch.randn(5, 6)
    assert counted(torch.mm, a, b) == 2 * 4 * 5 * 6
    assert counted(torch.tanh, a) == 0
    many, vectors = torch.randn(7, 5, 6), torch.randn(7, 1, 5)
    assert counted(torch.bmm, torch.randn(7, 4, 5), many) == 7 * 2 * 4 * 5 * 6
    assert counted(torch.bmm, vectors, many) == 0  # every sample's vector with its own columns
    image, kernel = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    assert counted(torch.conv2d, image, kernel) == 2 * 2 * 4 * 6 * 6 * 3 * 9
    spd = torch.eye(6)
    assert counted(torch.linalg.cholesky_ex, spd) == 6**3 // 3
    assert counted(torch.cholesky_inverse, spd) == 2 * 6**3 // 3
    assert counted(torch.cholesky_solve, torch.ones(6, 2), spd) == 2 * 2 * 6**2
    assert counted(torch.linalg.eigvalsh, spd.expand(50, 6, 6)) == 50 * 9 * 6**3


def test_a_phase_inside_another_counts_for_itself() -> None:
    work, a = WorkMeter(), torch.randn(4, 4)
    for is_needed in (False, True, True, False):
        with work.phase("outer"):
            a @ a
            if is_needed:
                with work.phase("inner"):
                    a @ a @ a
    assert work.operations == (4 + 2 * 2) * 2 * 64
    other = WorkMeter()
    with other.phase("outer"), other.phase("inner"):
        a @ a
    assert other.operations == 2 * 64


def test_a_phase_is_counted_once_and_added_at_every_run() -> None:
    work = WorkMeter()
    a = torch.randn(4, 4)
    for _ in range(3):
        with work.phase("square"):
            a @ a
    assert work.operations == 3 * 2 * 64
    assert work.known("square") == 2 * 64


@pytest.mark.parametrize("steps", [1, 4])
def test_gradient_equivalents_of_a_step(steps: int) -> None:
    """Plain CG on the whole batch: forward, backward, columns down a layer, `steps` products a block, the test."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, C))
    sm = SurrogateMinimizer(
        [network], SquaredError(), preconditioner=None, curvature_fraction=1, inner_steps=steps, damping=10.0
    )
    report = sm.step(torch.randn(N, D), torch.randn(N, C))
    assert report.tries == 1
    forward = 2 * N * (D * H + H * C)
    backward = 2 * N * (D * H + 2 * H * C)  # no gradient in the network's own input
    columns = 2 * N * C * H * C  # identity factor: C columns through the upper layer's weight
    product = 2 * 2 * N * (D * H + H * C)  # J v and Jᵀ s in each layer
    expected = (2 * forward + backward + columns + steps * product) / (forward + backward)
    assert report.gradient_equivalents == pytest.approx(expected, rel=0.02)
