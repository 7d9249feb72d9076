"""What a step that fails midway leaves behind, and a state that is loaded into a method that has gone on."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from surmin.methods.registry import METHODS, build_method
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
NOTHING_KEPT = ["sm", "kfac", "cgblock-ggn", "sso", "dgl", "interlocking"]
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
    method, other = (build_method(name, make_pipeline(model, 3, 2), {}) for model in models)
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
    method, other = (build_method(name, make_pipeline(model, 3), {"optimizer": "adam"}) for model in models)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        raise_at(patch, LOSS_GRADIENT, 1)
        for number in range(3):
            method.step(*make_batch(number))
    for number in range(3, 12):
        for own in (method, other):
            own.step(*make_batch(number))
    assert largest_difference(*models) == 0


@pytest.mark.parametrize("name", METHODS)
def test_a_state_is_loaded_into_a_method_that_has_gone_on(name: str) -> None:
    models = [make_model(), make_model()]
    method, other = (build_method(name, make_pipeline(model, 3), {}) for model in models)
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
    method, other = (build_method(name, make_pipeline(model, 3 if name in BY_STAGES else 2), {}) for model in models)
    inputs, targets = make_batch(0)
    for number in range(5):
        batch = make_batch(number)
        inputs.copy_(batch[0])
        targets.copy_(batch[1])
        method.step(inputs, targets)
        other.step(*batch)
    assert largest_difference(*models) == 0
