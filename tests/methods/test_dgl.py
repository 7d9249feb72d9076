"""Decoupled greedy learning against plain autograd on stages apart from each other."""

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
def test_against_stages_trained_apart(name: str, cuts: Sequence[int], microbatches: int, optimizer: str) -> None:
    case = case_of(name)
    plain, own = make_stages(case, cuts), make_stages(case, cuts)
    inputs, targets = case.batch()
    method = make_method("dgl", own, case, microbatches, lr=0.02, optimizer=optimizer)
    heads = initial_weights(method, inputs)
    values = [*trainable(plain), *(value for head in heads.values() for value in head.values())]
    plain_step, loss = plain_optimizer(optimizer, values, 0.02), plain_loss(case.loss)
    with torch.no_grad():
        outputs = torch.nn.Sequential(*plain)(inputs)
    for _ in range(6):
        plain_step.zero_grad()
        state = inputs
        for stage, first in zip(plain, first_layers(cuts), strict=True):
            state = stage(detached(state))
            local = loss(plain_head(heads[first], state, outputs) if first in heads else state, targets)
            if local.requires_grad:
                local.backward()
        plain_step.step()
        assert method.step(inputs, targets).loss == pytest.approx(float(local.detach()), abs=1e-10)
    assert len(heads) == len(plain) - 1
    assert largest_difference(torch.nn.Sequential(*plain), torch.nn.Sequential(*own)) < 1e-10
    assert final_difference(method, heads) < 1e-10


@pytest.mark.parametrize("microbatches", [1, 3])
def test_only_activations_cross(microbatches: int) -> None:
    case, cuts = case_of("tanh"), (0, 2, 4, 7)
    method = make_method("dgl", make_stages(case, cuts), case, microbatches)
    activations = 8 * len(case.batch()[0]) * (5 + 5)
    for _ in range(2):
        report = method.step(*case.batch())
        assert (report.messages, report.bytes_sent, report.forward_waves) == (2 * microbatches, activations, 1)


def test_work() -> None:
    """Forward, the parameters' gradient but not the inputs', and the heads; by hand."""
    case, cuts = case_of("tanh"), (0, 2, 4, 7)
    method = make_method("dgl", make_stages(case, cuts), case)
    reports = [method.step(*case.batch()) for _ in range(2)]
    layers = [(4, 5), (5, 5), (5, 4), (4, 3)]
    forward = [a * b for a, b in layers]
    heads = 2 * 3 * (5 * 5 + 5 * 3)  # forward, to the weights, and down to the stage's output, for two heads
    inside = forward[3]  # the one layer whose input's gradient another layer of its stage needs
    unit = 3 * sum(forward) - forward[0]
    expected = (2 * sum(forward) + inside + heads) / unit
    assert [report.gradient_equivalents for report in reports] == pytest.approx([expected] * 2)
