"""Every torch optimizer on the pipeline against the same optimizer in a plain training loop."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.optim import Optimizer

from surmin.methods.registry import build_method
from tests.methods.cases import largest_difference, make_batch, make_model, make_pipeline

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "gd": lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.3),
    "lbfgs": lambda parameters: torch.optim.LBFGS(
        parameters, lr=0.3, max_iter=4, max_eval=1000, line_search_fn="strong_wolfe"
    ),
}


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_trajectory(name: str, stages: int, microbatches: int) -> None:
    plain, piped = make_model(), make_model()
    optimizer = OPTIMIZERS[name](plain.parameters())
    options = {"lr": 0.3, **({"inner_steps": 4} if name == "lbfgs" else {})}
    method = build_method(name, make_pipeline(piped, stages, microbatches), **options)
    inputs, targets = make_batch()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(inputs), targets)
        loss.backward()
        return loss

    for _ in range(3 if name == "lbfgs" else 20):
        before = float(closure().detach())
        optimizer.step(closure)
        assert method.step(inputs, targets).loss == pytest.approx(before, abs=1e-12)
    assert largest_difference(plain, piped) < 1e-12
    assert all(parameter.grad is None for parameter in piped.parameters())
