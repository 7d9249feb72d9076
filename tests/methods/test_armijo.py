import math
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surmin.losses import SquaredError
from surmin.methods.common import armijo_search
from surmin.methods.common.armijo_search import ArmijoSearch, moved_against
from surmin.methods.gd_armijo import ArmijoDescent
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.methods.cases import largest_difference, make_batch, make_model, make_pipeline


def test_against_a_plain_line_search() -> None:
    plain, piped = make_model(), make_model()
    method = ArmijoDescent(make_pipeline(piped), lr=8.0)
    inputs, targets = make_batch()
    parameters = list(plain.parameters())
    length = 8.0
    for _ in range(15):
        loss = F.cross_entropy(plain(inputs), targets)
        gradients = torch.autograd.grad(loss, parameters)
        squared = sum(float(gradient.square().sum()) for gradient in gradients)
        start = [parameter.detach().clone() for parameter in parameters]
        tries = 0
        while True:
            tries += 1
            with torch.no_grad():
                for parameter, value, gradient in zip(parameters, start, gradients, strict=True):
                    parameter.copy_(value - length * gradient)
                reached = float(F.cross_entropy(plain(inputs), targets))
            if reached <= float(loss.detach()) - 1e-4 * length * squared:
                break
            length /= 2
        length *= 2
        report = method.step(inputs, targets)
        assert report.accepted and report.tries == tries
        assert (report.loss, report.new_loss) == pytest.approx((float(loss.detach()), reached), abs=1e-12)
        assert report.gradient_norm == pytest.approx(math.sqrt(squared), abs=1e-12)
    assert largest_difference(plain, piped) < 1e-12


def test_every_accepted_step_lowers_the_loss() -> None:
    method = ArmijoDescent(make_pipeline(make_model()))
    inputs, targets = make_batch()
    reports = [method.step(inputs, targets) for _ in range(30)]
    assert all(report.new_loss < report.loss for report in reports)
    assert all(after.loss == before.new_loss for before, after in pairwise(reports))


def test_without_a_good_trial_the_parameters_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(armijo_search, "MAX_TRIES", 3)
    model = make_model()
    method = ArmijoDescent(make_pipeline(model), lr=1e6)
    report = method.step(*make_batch())
    assert not report.accepted and report.tries == 3
    assert largest_difference(model, make_model()) == 0


@pytest.mark.parametrize(
    ("values", "length"),
    [([3.0, 2.0, 1.0, 1.0], 2.0), ([2.0, 1.0, 2.0], 2.0), ([1.0, 1.0], 4.0), ([3.0, 0.5], 4.0)],
    ids=["then it ties", "no more tries", "it ties at once", "it finds one"],
)
def test_where_the_next_search_begins(values: list[float], length: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """From α = 4 and a value of 1."""
    monkeypatch.setattr(armijo_search, "MAX_TRIES", 3 if len(values) == 3 else 40)
    pipeline, batch = make_pipeline(make_model()), make_batch()
    search, gradients = ArmijoSearch(pipeline, 4.0), pipeline.backward(pipeline.forward(*batch))
    trials = iter(values)
    found = search.descend(*batch, partial(moved_against, gradients), 1e-3, 1.0, lambda _: torch.tensor(next(trials)))
    assert (found.tries, search.length) == (len(values), length)


def test_a_fitted_batch_does_not_spoil_the_next_one() -> None:
    """In float32, where rounds that gain nothing once led to lengths by which no parameter moves, and to 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2))
    method = ArmijoDescent(InProcessPipeline([model], SquaredError()))
    inputs, targets = torch.randn(6, 3), torch.randn(6, 2)
    reports = [method.step(inputs, targets) for _ in range(120)]
    assert not any(report.accepted for report in reports[-20:]) and reports[-1].tries == 2
    assert method.step(inputs, targets + 0.1).accepted
    method.load_state_dict(method.state_dict())


@pytest.mark.parametrize("name", ["gd-armijo", "sso"])
def test_a_worker_without_layers_has_only_the_loss_on_the_batch_s_device(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline(make_model())
    backward = pipeline.backward
    monkeypatch.setattr(pipeline, "backward", lambda wave: backward(wave) and {})
    report = build_method(name, pipeline).step(*make_batch())
    assert (report.accepted, report.tries, report.gradient_norm) == (False, 0, 0)


@pytest.mark.parametrize(("short_of_two", "tries"), [(0.0, 2), (1.5e-4, 2), (2.5e-4, 1)])
def test_a_longer_step_has_to_lower_the_loss_by_more(short_of_two: float, tries: int) -> None:
    """½w² from w = 1 by α: the loss falls by α(2 - α)/2, which is asked to be 10⁻⁴ α. With 2 it stays."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).double()
    nn.init.ones_(model[0].weight)
    method = ArmijoDescent(InProcessPipeline(partition(model, 1), SquaredError()), lr=2 - short_of_two)
    one = torch.ones(1, 1, dtype=torch.float64)
    report = method.step(one, torch.zeros_like(one))
    assert report.accepted and report.tries == tries


def test_an_accepted_trial_is_the_next_first_wave_only_while_nothing_changes() -> None:
    model = make_model()
    method = ArmijoDescent(make_pipeline(model))
    inputs, targets = make_batch()
    first, second = method.step(inputs, targets), method.step(inputs, targets)
    assert first.forward_waves == first.tries + 1
    assert second.forward_waves == second.tries
    other = method.step(inputs.clone(), targets)
    assert other.forward_waves == other.tries + 1
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    changed = method.step(inputs, targets)
    assert changed.forward_waves == changed.tries + 1


@pytest.mark.parametrize("lr", [0.0, -1.0, math.inf, math.nan])
def test_first_lengths_that_are_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="lr must be a positive number"):
        build_method("gd-armijo", make_pipeline(make_model()), lr=lr)
