"""Synthetic gradients against plain autograd, stage by stage."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surmin import CrossEntropy, build_method
from tests.methods.cases import largest_difference
from tests.methods.local_cases import (
    SETTINGS,
    case_of,
    detached,
    final_difference,
    first_layers,
    initial_weights,
    make_method,
    make_stages,
    names,
    plain_loss,
    plain_optimizer,
    trainable,
)

STEPS = 3


def plain_synthesizer(weights: Mapping[str, Tensor], state: Tensor, targets: Tensor, outputs: Tensor) -> Tensor:
    """Predicted gradients, before outputs of a network like these."""
    y = torch.eye(outputs.shape[-1], dtype=state.dtype)[targets] if targets.shape != outputs.shape else targets
    image, flat = state.dim() == 4 and outputs.dim() == 2, state.dim() != 4 and outputs.dim() == 2
    if image:
        planes = y.reshape(*y.shape, 1, 1) * torch.ones_like(state[:, :1])
        joined = torch.cat((state, planes), dim=1)
        hidden = F.conv2d(joined, weights["network.hidden.weight"], weights["network.hidden.bias"], padding=1).relu()
        return F.conv2d(hidden, weights["network.output.weight"], weights["network.output.bias"], padding=1)
    joined = torch.cat((state.reshape(len(state), -1) if flat else state, y), dim=-1)
    hidden = (joined @ weights["network.hidden.weight"].T + weights["network.hidden.bias"]).relu()
    return (hidden @ weights["network.output.weight"].T + weights["network.output.bias"]).reshape(state.shape)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("name", "cuts", "microbatches"), SETTINGS, ids=names(SETTINGS))
def test_against_plain_autograd(name: str, cuts: Sequence[int], microbatches: int, optimizer: str) -> None:
    case, firsts = case_of(name), first_layers(cuts)
    plain, own = make_stages(case, cuts), make_stages(case, cuts)
    batches = [case.batch(seed=1), case.batch(seed=2)]
    rates: dict[str, Any] = {"lr": 0.02, "inner_lr": 0.01, "inner_steps": STEPS}
    method = make_method("dni", own, case, microbatches, optimizer=optimizer, **rates)
    synthesizers = initial_weights(method, batches[0][0])
    assert len(synthesizers) == len(plain) - 1
    assert all(not own["network.output.weight"].any() for own in synthesizers.values())
    stage_steps = plain_optimizer(optimizer, trainable(plain), 0.02)
    lessons: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    teachers = {first: torch.optim.Adam(list(own.values()), lr=0.01) for first, own in synthesizers.items()}
    loss = plain_loss(case.loss)
    for number in range(7):
        inputs, targets = batches[number % 2]
        n = len(inputs)
        entered = [detached(inputs)]
        left = []
        for stage in plain:
            left.append(stage(entered[-1]))
            entered.append(detached(left[-1]))
        for first, (state, labels, gradient) in lessons.items():
            for _ in range(STEPS):
                teachers[first].zero_grad()
                predicted = plain_synthesizer(synthesizers[first], state, labels, left[-1])
                (0.5 * (predicted - gradient) ** 2).sum().div(n).backward()
                teachers[first].step()
        for index, first in enumerate(firsts):
            if index == len(plain) - 1:
                (down,) = torch.autograd.grad(loss(entered[-1], targets), entered[-1])
            else:
                with torch.no_grad():
                    down = plain_synthesizer(synthesizers[first], left[index], targets, left[-1]) / n
            if left[index].requires_grad:
                left[index].backward(down)
            if index:
                below = entered[index].grad
                assert below is not None
                lessons[firsts[index - 1]] = (entered[index].detach(), targets, n * below)
        stage_steps.step()
        stage_steps.zero_grad()
        assert method.step(inputs, targets).loss == pytest.approx(float(loss(entered[-1], targets).detach()), abs=1e-10)
    assert largest_difference(torch.nn.Sequential(*plain), torch.nn.Sequential(*own)) < 1e-9
    assert final_difference(method, synthesizers) < 1e-9


def test_work() -> None:
    """A gradient step; predictions, and from the second round on lessons; by hand."""
    case, cuts = case_of("tanh"), (0, 2, 4, 7)
    method = make_method("dni", make_stages(case, cuts), case, inner_steps=STEPS)
    reports = [method.step(*case.batch()) for _ in range(3)]
    forward = [4 * 5, 5 * 5, 5 * 4, 4 * 3]
    hidden, output = (5 + 3) * 10, 10 * 5
    unit = 3 * sum(forward) - forward[0]
    prediction, lesson = 2 * (hidden + output), 2 * (2 * hidden + 3 * output)  # a lesson needs no gradient in its input
    expected = [1 + prediction / unit, *[1 + (prediction + STEPS * lesson) / unit] * 2]
    assert [report.gradient_equivalents for report in reports] == pytest.approx(expected)


def test_nothing_below_the_last_stage_moves_at_first() -> None:
    case, cuts = case_of("tanh"), (0, 2, 4, 7)
    stages, start = make_stages(case, cuts), make_stages(case, cuts)
    method = make_method("dni", stages, case)
    method.step(*case.batch())
    moved = [largest_difference(own, old) > 0 for own, old in zip(stages, start, strict=True)]
    assert moved == [False, False, True]
    method.step(*case.batch())
    moved = [largest_difference(own, old) > 0 for own, old in zip(stages, start, strict=True)]
    assert moved == [False, True, True]


def test_the_next_batch_may_be_put_into_the_last_one_s_tensors() -> None:
    """The first stage only looks at the batch in another shape, and its synthesizer learns a round later."""
    case = case_of("tanh")
    found = []
    for refills in (False, True):
        stages = [nn.Flatten(), *make_stages(case, (0, 4, 7))]
        method = make_method("dni", stages, case)
        inputs, targets = case.batch()
        for seed in range(3):
            batch = case.batch(seed=seed)
            inputs, targets = (inputs.copy_(batch[0]), targets.copy_(batch[1])) if refills else batch
            method.step(inputs, targets)
        found.append(method.auxiliary[0].state_dict()["weights"])
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


@pytest.mark.parametrize("ignored", [-1, 3])
def test_ignored_labels_are_of_no_class(ignored: int) -> None:
    """Positions that the loss ignores have zeros where a class would be, whatever their label."""
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(5, 4), nn.Tanh()), nn.Linear(4, 3)]
    method = build_method("dni", stages, CrossEntropy(ignore_index=ignored), lr=0.05)
    inputs, targets = torch.randn(24, 5), torch.arange(24) % 3
    targets[::4] = ignored
    losses = [method.step(inputs, targets).loss for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_lr": 0.0}, "inner_lr must be a positive number, got 0.0"),
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"lr": float("nan")}, "lr must be a positive number, got nan"),
        ({"optimizer": "rmsprop"}, "unknown optimizer 'rmsprop': choose gd, sgd, adam"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    case = case_of("tanh")
    with pytest.raises(ValueError, match=f"^{message}"):
        make_method("dni", make_stages(case, (0, 2, 7)), case, **options)
