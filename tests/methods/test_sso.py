"""SSO step for step against the surrogate written out in a plain training loop."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surmin.losses import GradientOracle
from surmin.methods.registry import build_method
from surmin.methods.sso import Sso
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.cases import BY_NAME, Case
from tests.methods.cases import SAMPLES, WIDTH, largest_difference, make_batch, make_model, make_pipeline
from tests.methods.plain_losses import plain_mean, plain_smoothness

ROUNDS, INNER_STEPS = 3, 4


class PlainSurrogate:
    """Ψ of a whole network."""

    def __init__(self, model: nn.Module, case: Case, batch: tuple[Tensor, Tensor], curvature: float | None) -> None:
        self.model, self.inputs = model, batch[0]
        self.start = model(batch[0]).detach().requires_grad_()
        (self.gradient,) = torch.autograd.grad(plain_mean(case.loss, self.start, batch[1]), self.start)
        self.curvature = plain_smoothness(case.loss, self.start) if curvature is None else curvature

    def value(self) -> Tensor:
        change = self.model(self.inputs) - self.start.detach()
        return (self.gradient * change).sum() + self.curvature / (2 * len(change)) * change.square().sum()


def plain_line_searches(surrogate: PlainSurrogate, length: float) -> tuple[int, float]:
    """Returns the trials and the first gradient's norm."""
    parameters = list(surrogate.model.parameters())
    tries, norms = 0, []
    for _ in range(INNER_STEPS):
        value = surrogate.value()
        gradients = torch.autograd.grad(value, parameters)
        squared = sum(float(gradient.square().sum()) for gradient in gradients)
        norms.append(math.sqrt(squared))
        start = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            while True:
                tries += 1
                for parameter, before, gradient in zip(parameters, start, gradients, strict=True):
                    parameter.copy_(before - length * gradient)
                if surrogate.value() <= value - 1e-4 * length * squared:
                    break
                length /= 2
        length *= 2
    return tries, norms[0]


def piped(case: Case, stages: int, microbatches: int) -> tuple[nn.Module, InProcessPipeline]:
    model = case.network()
    return model, InProcessPipeline(partition(model, stages), case.loss, microbatches=microbatches)


@pytest.mark.parametrize(
    ("name", "stages", "microbatches", "lr"),
    [
        ("relu", 4, 1, None),
        ("tanh", 3, 2, 5.0),
        ("softplus", 2, 3, None),
        ("logistic", 1, 6, None),
        ("convolution", 3, 1, 0.3),
        ("attention", 3, 2, None),
        ("positions", 2, 1, None),
    ],
)
def test_line_searches_on_the_surrogate(name: str, stages: int, microbatches: int, lr: float | None) -> None:
    case = BY_NAME[name]
    plain, batch = case.network(), case.batch()
    model, pipeline = piped(case, stages, microbatches)
    method = Sso(pipeline, lr=lr, inner_steps=INNER_STEPS, inner_lr=4.0)
    for _ in range(ROUNDS):
        loss = float(plain_mean(case.loss, plain(batch[0]), batch[1]).detach())
        tries, norm = plain_line_searches(PlainSurrogate(plain, case, batch, None if lr is None else 1 / lr), 4.0)
        report = method.step(*batch)
        assert report.accepted and report.tries == tries
        assert (report.loss, report.gradient_norm) == pytest.approx((loss, norm), abs=1e-10)
        assert largest_difference(plain, model) < 1e-8


def test_line_searches_on_changing_batches() -> None:
    """A new surrogate a batch, and no wave of the last one is used again."""
    case = BY_NAME["tanh"]
    plain = case.network()
    model, pipeline = piped(case, 3, 2)
    method = Sso(pipeline, lr=2.0, inner_steps=INNER_STEPS, inner_lr=4.0)
    for seed in range(ROUNDS):
        batch = case.batch(seed=seed)
        tries, norm = plain_line_searches(PlainSurrogate(plain, case, batch, 0.5), 4.0)
        report = method.step(*batch)
        assert (report.tries, report.forward_waves) == (tries, tries + 1)
        assert report.gradient_norm == pytest.approx(norm, abs=1e-10)
        assert largest_difference(plain, model) < 1e-8


@pytest.mark.parametrize("name", ["gd", "adam"])
@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize("microbatches", [1, 3])
def test_steps_of_other_optimizers_on_the_surrogate(name: str, changing: bool, microbatches: int) -> None:
    case = BY_NAME["tanh"]
    plain, batch = case.network(), case.batch()
    model, pipeline = piped(case, 2, microbatches)
    options: dict[str, Any] = {"inner_optimizer": name, "inner_lr": 0.05, "inner_steps": INNER_STEPS}
    method = build_method("sso", pipeline, **options)
    makers = {"gd": torch.optim.SGD, "adam": torch.optim.Adam}
    for number in range(ROUNDS):
        batch = case.batch(seed=number) if changing else batch
        surrogate, optimizer = PlainSurrogate(plain, case, batch, None), makers[name](plain.parameters(), lr=0.05)
        for _ in range(INNER_STEPS):
            optimizer.zero_grad()
            surrogate.value().backward()
            optimizer.step()
        report = method.step(*batch)
        assert report.forward_waves == INNER_STEPS
        assert largest_difference(plain, model) < 1e-8


def test_with_the_smoothness_every_round_lowers_the_loss() -> None:
    method, batch = Sso(make_pipeline(make_model())), make_batch()
    losses = [method.step(*batch).loss for _ in range(15)]
    assert all(after < before for before, after in pairwise(losses))


@pytest.mark.parametrize("microbatches", [1, 4])
def test_what_crosses_the_pipe(microbatches: int) -> None:
    stages, boundaries = 3, 2
    method = Sso(make_pipeline(make_model(), stages, microbatches), inner_steps=3, inner_lr=50.0)
    batch = make_batch()
    for number in range(2):
        report = method.step(*batch)
        waves = report.forward_waves
        assert waves == report.tries + (number == 0)
        sums = [2, *[1] * (report.tries + 2)]  # loss and gradient, trials, the later gradients
        assert report.messages == boundaries * (microbatches * (waves + 3) + 2 * len(sums))
        assert report.bytes_sent == boundaries * 8 * (SAMPLES * WIDTH * (waves + 3) + 2 * sum(sums))


def test_a_loss_that_is_only_a_gradient() -> None:
    asked_for = []

    def oracle(outputs: Tensor, targets: Tensor) -> Tensor:
        asked_for.append(len(targets))
        return outputs.softmax(-1) - nn.functional.one_hot(targets, outputs.shape[-1])

    known, asked = make_model(), make_model()
    batch = make_batch()
    first = Sso(make_pipeline(known))
    second = Sso(InProcessPipeline(partition(asked, 2), GradientOracle(oracle, 0.5)))
    for number in range(1, 4):
        first.step(*batch)
        assert math.isnan(second.step(*batch).loss)
        assert asked_for == [SAMPLES] * number
    assert largest_difference(known, asked) < 1e-12


def test_a_search_that_finds_nothing_leaves_all_as_it_was() -> None:
    model, batch = make_model(), make_batch()
    report = Sso(make_pipeline(model), inner_lr=1e300).step(*batch)
    assert not report.accepted and report.tries == 40
    assert largest_difference(model, make_model()) == 0
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    report = Sso(make_pipeline(model)).step(*batch)
    assert not report.accepted and report.tries == 0 and math.isnan(report.loss)


@pytest.mark.parametrize(("gap", "moves"), [(1e-4, True), (1e-8, False)])
def test_a_round_ends_where_the_gradient_is_below_a_millionth(gap: float, moves: bool) -> None:
    case = BY_NAME["softplus"]
    model, pipeline = piped(case, 2, 1)
    inputs, _ = case.batch()
    report = Sso(pipeline).step(inputs, model(inputs).detach() + gap)
    assert 0.1 * gap < report.gradient_norm < 100 * gap
    assert report.accepted is moves


def test_it_has_no_state() -> None:
    method = Sso(make_pipeline(make_model()))
    method.step(*make_batch())
    assert method.state_dict() == {}
    with pytest.raises(ValueError, match="not the state of a Sso"):
        method.load_state_dict({"length": 1.0})


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"inner_lr": math.inf}, {"inner_steps": 0}, {"lr": math.nan}])
def test_values_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be "):
        Sso(make_pipeline(make_model()), **options)


def test_an_unknown_inner_optimizer() -> None:
    with pytest.raises(ValueError, match="inner_optimizer must be one of armijo, gd, adam, got 'sgd'"):
        build_method("sso", make_pipeline(make_model()), inner_optimizer="sgd")
