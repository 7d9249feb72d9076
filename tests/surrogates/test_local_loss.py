import pytest
import torch
from torch import Tensor

from surmin.surrogates.local_loss import LocalLoss

SIZE = 6


def problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    return matrix + matrix.t(), torch.randn(SIZE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("cubic", [0.0, 0.7])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_value_gradient_and_product_against_the_written_out_equation(cubic: float, damping: float) -> None:
    matrix, gradient = problem()
    loss = LocalLoss(gradient, lambda v: matrix @ v, inflation=3.0, cubic=cubic, damping=damping)
    step = torch.randn(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    full = 3 * matrix + damping * torch.eye(SIZE, dtype=torch.float64)
    value = gradient @ step + step @ full @ step / 2 + 2 * cubic / 3 * (step @ step) ** 1.5
    (slope,) = torch.autograd.grad(value, step)
    step = step.detach()
    torch.testing.assert_close(loss(step), value.detach())
    torch.testing.assert_close(loss.gradient_at(step, loss.product(step)), slope)
    torch.testing.assert_close(loss.product(step), full @ step)
    assert loss(torch.zeros(SIZE, dtype=torch.float64)) == 0


def test_it_cannot_be_differentiated_by_autograd() -> None:
    matrix, gradient = problem()
    step = torch.ones(SIZE, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="cannot be differentiated: use its gradient_at"):
        LocalLoss(gradient, lambda v: matrix @ v)(step)


def test_damping_and_inflation_replace_what_was_there() -> None:
    matrix, gradient = problem()
    loss = LocalLoss(gradient, lambda v: matrix @ v, inflation=3.0, damping=0.5)
    v = torch.ones(SIZE, dtype=torch.float64)
    torch.testing.assert_close(loss.damped(2.0).product(v), 3 * matrix @ v + 2 * v)
    torch.testing.assert_close(loss.inflated(7.0).product(v), 7 * matrix @ v + 0.5 * v)
    torch.testing.assert_close(loss.product(v), 3 * matrix @ v + 0.5 * v)
