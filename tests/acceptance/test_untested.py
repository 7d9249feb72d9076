import math

import pytest
import torch
from torch import nn

from surmin import SquaredError, SurrogateMinimizer


@pytest.mark.parametrize(("scale", "is_finite"), [(1.0, True), (1e10, False)])
def test_an_untested_step_is_taken_where_what_it_promises_is_finite(scale: float, is_finite: bool) -> None:
    """Gradient descent at a rate that is too large for such inputs leaves single precision in three steps."""
    torch.manual_seed(0)
    layer, inputs, targets = nn.Linear(3, 2, bias=False), scale * torch.randn(8, 3), torch.zeros(8, 2)
    with torch.no_grad():
        layer.weight /= scale
    before = layer.weight.detach().clone()
    (gradient,) = torch.autograd.grad(0.5 * layer(inputs).square().sum(1).mean(), layer.weight)
    options = {"solver": "gd", "preconditioner": None, "inner_learning_rate": 0.1, "inner_steps": 3}
    report = SurrogateMinimizer([layer], SquaredError(), adapt_damping=False, **options).step(inputs, targets)
    assert report.accepted is is_finite is math.isfinite(report.predicted_decrease)
    assert torch.equal(layer.weight, before) is not is_finite
    assert report.gradient_norm == pytest.approx(gradient.norm().item(), rel=1e-5)
