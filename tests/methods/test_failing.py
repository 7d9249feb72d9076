"""What a step that fails midway leaves behind, and a state that is loaded into a method that has gone on."""

from collections.abc import Callable
from copy import deepcopy
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surmin.errors import NonFiniteError
from surmin.losses import SquaredError
from surmin.methods.registry import METHODS, build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.methods.cases import BY_STAGES, largest_difference, make_batch, make_model, make_pipeline

LOSS_GRADIENT = "surmin.losses.cross_entropy.CrossEntropy.gradient"
BACKWARD = "surmin.pipeline.worker_pipeline.WorkerPipeline.backward"
FAILING = {
    "sm": ("surmin.acceptance.search.Search.run", 1),
    "kfac": ("surmin.methods.kfac.combine", 1),
    "cgblock-ggn": ("surmin.methods.cgblock_ggn.search_jointly", 1),
    "lbfgs": (BACKWARD, 3),
    "sso": (BACKWARD, 3),
    "locoprop": ("surmin.methods.local_matching.LocalMatching.gradient", 2),
    "dladmm": ("surmin.methods.admm.layer.AdmmLayer.update_dual", 1),
    "dgl": (LOSS_GRADIENT, 2),
    "interlocking": (LOSS_GRADIENT, 3),
    "dni": (LOSS_GRADIENT, 2),
    "ddg": (LOSS_GRADIENT, 2),
    "features-replay": (LOSS_GRADIENT, 2),
    "fdg": (LOSS_GRADIENT, 2),
}
"""What raises, and at which of its calls in a step of two micro-batches on three stages."""
NOTHING_KEPT = ["sm", "kfac", "cgblock-ggn", "sso", "locoprop", "dgl", "interlocking"]
"""Methods that go on as if the step that failed had not been."""


def raise_at(patch: pytest.MonkeyPatch, target: str, number: int) -> None:
    """Have a function raise at that call."""
    plain: Callable[..., Any] = resolve_name(target)
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise RuntimeError("out of memory")
        return plain(*arguments, **options)

    patch.setattr(target, call)


@pytest.mark.parametrize("name", FAILING)
def test_a_step_that_fails_midway(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [make_model(), make_model()]
    method, other = (build_method(name, make_pipeline(model, 3, 2)) for model in models)
    for number in range(5):
        for own in (method, other):
            own.step(*make_batch(number))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        raise_at(patch, *FAILING[name])
        method.step(*make_batch(7))
    assert largest_difference(*models) == 0
    for number in range(8, 14):
        reports = [own.step(*make_batch(number)) for own in (method, other)]
    if name in NOTHING_KEPT:
        assert largest_difference(*models) == 0 and reports[0].loss == reports[1].loss
    assert all(parameter.isfinite().all() for parameter in models[0].parameters())
    method.load_state_dict(method.state_dict())


@pytest.mark.parametrize("name", ["ddg", "features-replay", "fdg"])
def test_delayed_gradients_begin_anew_after_a_failure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient had come by then, so that they go on like a method that has not begun."""
    models = [make_model(), make_model()]
    method, other = (build_method(name, make_pipeline(model, 3), optimizer="adam") for model in models)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        raise_at(patch, LOSS_GRADIENT, 2)
        for number in range(3):
            method.step(*make_batch(number))
    for number in range(3, 12):
        for own in (method, other):
            own.step(*make_batch(number))
    assert largest_difference(*models) == 0


@pytest.mark.parametrize("name", METHODS)
def test_a_state_is_loaded_into_a_method_that_has_gone_on(name: str) -> None:
    models = [make_model(), make_model()]
    method, other = (build_method(name, make_pipeline(model, 3)) for model in models)
    batches = [make_batch(0 if name == "dladmm" else number) for number in range(8)]
    for number in range(4):
        method.step(*batches[number])
    state, weights = method.state_dict(), {key: value.clone() for key, value in models[0].state_dict().items()}
    method.step(*batches[6])
    method.step(*batches[7])
    for model in models:
        model.load_state_dict(weights)
    other.load_state_dict(state)
    with torch.no_grad():  # which must not matter
        method.load_state_dict(state)
    for number in range(4, 8):
        for own in (method, other):
            own.step(*batches[number])
    assert largest_difference(*models) == 0


@pytest.mark.parametrize("name", METHODS)
def test_batches_may_come_in_the_same_tensors(name: str) -> None:
    models = [make_model(), make_model()]
    method, other = (build_method(name, make_pipeline(model, 3 if name in BY_STAGES else 2)) for model in models)
    inputs, targets = make_batch(0)
    for number in range(5):
        batch = make_batch(number)
        inputs.copy_(batch[0])
        targets.copy_(batch[1])
        method.step(inputs, targets)
        other.step(*batch)
    assert largest_difference(*models) == 0


@pytest.mark.parametrize("name", ["sm", "gd-armijo", "cgblock", "cgblock-ggn", "newton", "kfac", "lbfgs"])
def test_a_batch_whose_loss_overflows_moves_nothing(name: str) -> None:
    """Its inner products are finite still, so that steps could be made, to a loss that is infinite too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    before = deepcopy(model)
    method = build_method(name, InProcessPipeline(partition(model, 2), SquaredError()))
    inputs, targets = torch.randn(6, 3), torch.randn(6, 2)
    with pytest.raises(NonFiniteError):
        method.step(inputs, targets.index_fill(0, torch.tensor([2]), 1e20))
    assert largest_difference(model, before) == 0
    assert method.step(inputs, targets).new_loss < float("inf")


class Root(nn.Module):
    """√max(z, 0), whose derivative below 0 autograd takes for 0 · ∞."""

    def forward(self, inputs: Tensor) -> Tensor:
        return ((inputs > 0) * inputs).sqrt()


@pytest.mark.parametrize("name", ["cgblock", "cgblock-ggn", "newton"])
def test_a_slope_that_is_not_finite_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), Root(), nn.Linear(4, 2))
    before = deepcopy(model)
    method = build_method(name, InProcessPipeline(partition(model, 2), SquaredError()))
    state = method.state_dict()
    with pytest.raises(NonFiniteError, match=r"against a loss of \d.* with a slope of nan"):
        method.step(torch.randn(6, 3), torch.randn(6, 2))
    assert largest_difference(model, before) == 0
    assert method.state_dict() == state


def test_kfac_refuses_a_step_that_is_not_finite() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = deepcopy(model)
    method = build_method("kfac", InProcessPipeline(partition(model, 2), SquaredError()))
    inputs, targets = torch.randn(6, 3), torch.randn(6, 2)
    with pytest.raises(NonFiniteError):
        method.step(inputs.index_fill(0, torch.tensor([2]), 1e20), targets)
    assert largest_difference(model, before) == 0
    fresh = build_method("kfac", InProcessPipeline(partition(before, 2), SquaredError()))
    assert method.step(inputs, targets).new_loss == fresh.step(inputs, targets).new_loss


def test_a_line_search_on_a_fitted_batch_keeps_its_length() -> None:
    """Twice the length at every one of many rounds in which there is nothing to do would soon be useless."""
    model = nn.Sequential(nn.Linear(3, 2))
    method = build_method("gd-armijo", InProcessPipeline([model], SquaredError()))
    inputs = torch.randn(6, 3)
    for _ in range(3):
        report = method.step(inputs, model(inputs).detach())
        assert not report.accepted and report.tries == 0
    assert method.state_dict() == {"length": 1.0}
