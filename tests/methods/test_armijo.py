import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surmin.losses import SquaredError
from surmin.methods import armijo
from surmin.methods.armijo import ArmijoDescent
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
    monkeypatch.setattr(armijo, "MAX_TRIES", 3)
    model = make_model()
    method = ArmijoDescent(make_pipeline(model), lr=1e6)
    report = method.step(*make_batch())
    assert not report.accepted and report.tries == 3
    assert largest_difference(model, make_model()) == 0


@pytest.mark.parametrize(("short_of_two", "tries"), [(0.0, 2), (1.5e-4, 2), (2.5e-4, 1)])
def test_a_longer_step_has_to_lower_the_loss_by_more(short_of_two: float, tries: int) -> None:
    """½w² from w = 1 by α: the loss falls by α(2 - α)/2, which is asked to be 10⁻⁴ α. By 2 it stays: half of it does."""
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
        build_method("gd-armijo", make_pipeline(make_model()), {"lr": lr})
