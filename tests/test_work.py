"""Counted operations against a count by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

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


def gradients_of(output: Tensor, leaves: list[Tensor]) -> None:
    torch.autograd.grad(output.sum(), leaves)


def test_fused_attention() -> None:
    """As plain products; its backward makes the scores once more."""
    leaves = [torch.randn(3, 2, positions, 4, device="cpu", requires_grad=True) for positions in (5, 7, 7)]
    product = 2 * 3 * 2 * 5 * 7 * 4
    for kernel, down in ((SDPBackend.MATH, 4), (SDPBackend.FLASH_ATTENTION, 5)):
        work = WorkMeter()
        with sdpa_kernel(kernel):
            output = work.counted("forward", scaled_dot_product_attention)(*leaves)
            work.counted("backward", gradients_of)(output, leaves)
        assert (work.known("forward"), work.known("backward")) == (2 * product, down * product)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True, "batch_first": True}], ids=str)
def test_recurrent_layers_whose_steps_are_fused(options: dict[str, Any]) -> None:
    """As float64's, which are not."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        module = nn.LSTM(H, D, device="cpu", dtype=dtype, **options)
        shapes = [(N, N, H), (2, N, D), (2, N, D)] if options else [(N, N, H), (1, N, D), (1, N, D)]
        leaves = [torch.randn(shape, device="cpu", dtype=dtype, requires_grad=True) for shape in shapes]
        work = WorkMeter()
        output, _ = work.counted("forward", module)(leaves[0], leaves[1:])
        work.counted("backward", gradients_of)(output, [*leaves, *module.parameters()])
        found[dtype] = [work.known("forward"), work.known("backward")]
    assert found[torch.float32] == found[torch.float64] and found[torch.float32][0] > 0


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
