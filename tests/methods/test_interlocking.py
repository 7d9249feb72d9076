"""Pairwise interlocking backpropagation against plain autograd through pairs of stages."""

from collections.abc import Sequence

import pytest
import torch

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
    plain_head,
    plain_loss,
    plain_optimizer,
    trainable,
)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("name", "cuts", "microbatches"), SETTINGS, ids=names(SETTINGS))
def test_against_pairs_of_stages(name: str, cuts: Sequence[int], microbatches: int, optimizer: str) -> None:
    case, firsts = case_of(name), first_layers(cuts)
    plain, own = make_stages(case, cuts), make_stages(case, cuts)
    inputs, targets = case.batch()
    method = make_method("interlocking", own, case, microbatches, lr=0.02, optimizer=optimizer)
    heads = initial_weights(method, inputs)
    values = [*trainable(plain), *(value for head in heads.values() for value in head.values())]
    plain_step, loss = plain_optimizer(optimizer, values, 0.02), plain_loss(case.loss)
    for _ in range(6):
        plain_step.zero_grad()
        states = [inputs]
        for stage in plain:
            states.append(stage(states[-1]).detach())
        for index, stage in enumerate(plain):
            above = min(index + 1, len(plain) - 1)
            reached = stage(detached(states[index]))
            if above > index:
                reached = plain[above](reached)
            if firsts[above] in heads:
                reached = plain_head(heads[firsts[above]], reached, states[-1])
            local = loss(reached, targets)
            if trainable([stage]):
                for parameter, gradient in zip(
                    trainable([stage]), torch.autograd.grad(local, trainable([stage])), strict=True
                ):
                    parameter.grad = gradient
        for first, weights in heads.items():
            loss(plain_head(weights, states[firsts.index(first) + 1], states[-1]), targets).backward()
        plain_step.step()
        expected = float(loss(states[-1], targets))
        assert method.step(inputs, targets).loss == pytest.approx(expected, abs=1e-10)
    assert len(heads) == max(0, len(plain) - 2)
    assert largest_difference(torch.nn.Sequential(*plain), torch.nn.Sequential(*own)) < 1e-10
    assert final_difference(method, heads) < 1e-10


def test_two_stages_are_backpropagation() -> None:
    case, cuts = case_of("tanh"), (0, 4, 7)
    plain, own = case.network(), make_stages(case, cuts)
    method, loss = make_method("interlocking", own, case, lr=0.01), plain_loss(case.loss)
    step = plain_optimizer("adam", list(plain.parameters()), 0.01)
    inputs, targets = case.batch()
    for _ in range(5):
        step.zero_grad()
        loss(plain(inputs), targets).backward()
        step.step()
        method.step(inputs, targets)
    assert largest_difference(plain, torch.nn.Sequential(*own)) < 1e-12


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("name", ["interlocking", "dni"])
def test_as_many_messages_as_backpropagation(name: str, microbatches: int) -> None:
    case, cuts = case_of("tanh"), (0, 2, 4, 7)
    method = make_method(name, make_stages(case, cuts), case, microbatches)
    method.step(*case.batch())
    report = method.step(*case.batch())
    assert (report.messages, report.bytes_sent) == (2 * 2 * microbatches, 2 * 8 * len(case.batch()[0]) * (5 + 5))
    assert report.forward_waves == 1


def test_work() -> None:
    """A gradient step, and in the stage between once more to the input, and its head; by hand."""
    case, cuts = case_of("tanh"), (0, 2, 4, 7)
    method = make_method("interlocking", make_stages(case, cuts), case)
    reports = [method.step(*case.batch()) for _ in range(2)]
    forward = [4 * 5, 5 * 5, 5 * 4, 4 * 3]
    unit = 3 * sum(forward) - forward[0]
    expected = 1 + 3 * (5 * 5 + 5 * 3) / unit  # the stage between goes down once, but in two parts
    assert [report.gradient_equivalents for report in reports] == pytest.approx([expected] * 2)
