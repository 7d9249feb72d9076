"""A loss that has no value: methods that test their steps refuse it at once, and those they name can train with it."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surmin import GradientOracle, SurrogateMinimizer
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.methods.cases import make_batch, make_model

REASON = "tests its steps by the loss, and a gradient oracle has no loss value"
OTHERS = "gd, sgd, adam, sso, sm-paper, or a SurrogateMinimizer with adapt_damping=False and enough damping"


def softmax_oracle(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.softmax(-1) - nn.functional.one_hot(targets, outputs.shape[-1])


def make_pipeline(model: nn.Sequential) -> InProcessPipeline:
    return InProcessPipeline(partition(model, 2), GradientOracle(softmax_oracle, 0.5))


def hidden_loss(model: nn.Sequential) -> float:
    inputs, targets = make_batch()
    return nn.functional.cross_entropy(model(inputs).detach(), targets).item()


@pytest.mark.parametrize(
    ("name", "called", "ways"),
    [
        ("gd-armijo", "gd-armijo", ""),
        ("lbfgs", "lbfgs", ""),
        ("cgblock", "cgblock with safeguard armijo", "safeguard damping or none, "),
        ("cgblock-ggn", "cgblock-ggn", ""),
        ("kfac", "kfac", ""),
        ("newton", "newton with safeguard armijo", "safeguard none, "),
    ],
)
def test_methods_that_test_their_steps_refuse_it(name: str, called: str, ways: str) -> None:
    with pytest.raises(ValueError) as caught:
        build_method(name, make_pipeline(make_model()))
    assert str(caught.value) == f"{called} {REASON}: use {ways}{OTHERS}"


@pytest.mark.parametrize(
    ("name", "options"),
    [("gd", {}), ("sgd", {}), ("adam", {}), ("sso", {}), ("sm-paper", {}),
     ("cgblock", {"safeguard": "damping", "damping": 3.0}), ("newton", {"safeguard": "none", "damping": 3.0})],
    ids=str,
)  # fmt: skip
def test_methods_they_name_train_with_it(name: str, options: Mapping[str, Any]) -> None:
    model = make_model()
    method = build_method(name, make_pipeline(model), **options)
    for _ in range(10):
        assert math.isnan(method.step(*make_batch()).loss)
    assert hidden_loss(model) < hidden_loss(make_model()) - 0.01


def test_surrogate_minimization_trains_with_it_where_steps_are_not_tested() -> None:
    model = make_model()
    method = SurrogateMinimizer(make_pipeline(model), adapt_damping=False, damping=0.5)
    for _ in range(10):
        method.step(*make_batch())
    assert hidden_loss(model) < hidden_loss(make_model()) - 0.01


@pytest.mark.parametrize("curvature", ["scalar", "sample", "factor"])
def test_what_it_says_is_taken_in_the_network_s_precision(curvature: Any) -> None:
    """Targets from NumPy are float64 as a rule."""
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    oracle = GradientOracle(lambda outputs, targets: outputs - targets, 1.0)
    method = SurrogateMinimizer([model], oracle, adapt_damping=False, damping=0.5, curvature=curvature)
    inputs, targets = torch.randn(6, 5), torch.randn(6, 3, dtype=torch.float64)
    before = (model(inputs) - targets).square().mean()
    for _ in range(3):
        method.step(inputs, targets)
    assert (model(inputs) - targets).square().mean() < before


def test_safeguard_none_of_cgblock_takes_it() -> None:
    model = make_model()
    build_method("cgblock", make_pipeline(model), safeguard="none", inner_steps=1).step(*make_batch())
    assert not torch.equal(next(model.parameters()), next(make_model().parameters()))
