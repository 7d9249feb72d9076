"""LocoProp step for step against local losses written out layer by layer, the matching ones as integrals."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surmin.losses import ConvexLoss, CrossEntropy, LogisticLoss, SquaredError
from surmin.methods.locoprop import LocoProp
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.cases import BY_NAME, Case
from tests.methods.cases import SAMPLES, WIDTH, largest_difference, make_batch, make_model, make_pipeline
from tests.methods.plain_losses import plain_mean

ROUNDS, INNER_STEPS = 3, 6
Integral = Callable[[Tensor], Tensor]


def _log_cosh(a: Tensor) -> Tensor:
    return a + F.softplus(-2 * a) - math.log(2)


INTEGRALS: dict[type[nn.Module], Integral] = {
    nn.ReLU: lambda a: a.clamp_min(0).square() / 2,
    nn.Tanh: _log_cosh,
    nn.Sigmoid: F.softplus,
    nn.Identity: lambda a: a.square() / 2,
}
"""Convex functions whose derivative is the activation."""
OF_LOSS: dict[type[ConvexLoss], Integral] = {
    CrossEntropy: lambda z: z.logsumexp(-1),
    LogisticLoss: F.softplus,
    SquaredError: lambda z: z.square() / 2,
}


class PlainLocoProp:
    """One round on a whole network, with torch's autograd; outputs of the network have no positions."""

    def __init__(self, model: nn.Sequential, case: Case, kind: str, rate: float, damping: float) -> None:
        self.layers, self.case, self.kind, self.rate, self.damping = list(model), case, kind, rate, damping

    def round(self, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer, lr: float) -> None:
        states = [batch[0]]
        for layer in self.layers:
            states.append(layer(states[-1]))
            states[-1].requires_grad_().retain_grad()
        plain_mean(self.case.loss, states[-1], batch[1]).backward()
        trained = [index for index, layer in enumerate(self.layers) if list(layer.parameters())]
        pull = {index: len(batch[0]) * cast(Tensor, states[index + 1].grad) for index in trained}
        states = [state.detach() for state in states]
        targets = {index: self._transfer(index, states[index + 1]) - self.rate * pull[index] for index in trained}
        before = {parameter: parameter.detach().clone() for layer in self.layers for parameter in layer.parameters()}
        for number in range(INNER_STEPS):
            optimizer.param_groups[0]["lr"] = lr * max(1 - number / INNER_STEPS, 0.25)
            optimizer.zero_grad()
            for index in trained:
                outputs = self.layers[index](states[index])
                local = self._integral(index, outputs).sum() - (targets[index] * outputs).sum()
                (local / len(outputs)).backward()
            for parameter, start in before.items():
                parameter.grad = cast(Tensor, parameter.grad) + self.damping * (parameter.detach() - start)
            optimizer.step()

    def _integral(self, index: int, outputs: Tensor) -> Tensor:
        if self.kind == "matching" and index + 1 == len(self.layers):
            return OF_LOSS[type(self.case.loss)](outputs)
        kind = type(self.layers[index + 1]) if index + 1 < len(self.layers) and self.kind == "matching" else nn.Identity
        return INTEGRALS.get(kind, INTEGRALS[nn.Identity])(outputs)

    def _transfer(self, index: int, outputs: Tensor) -> Tensor:
        leaf = outputs.clone().requires_grad_()
        (transferred,) = torch.autograd.grad(self._integral(index, leaf).sum(), leaf)
        return transferred


SIGMOID = Case(
    "sigmoid", lambda: nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 2)), (4,), (2,), SquaredError()
)
TANH_CONVOLUTION = Case(
    "tanh convolution",
    lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 3)
    ),
    (1, 4, 4), (), CrossEntropy(), classes=3,
)  # fmt: skip
BINARY = Case("binary", lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), (4,), (2,), LogisticLoss())


@pytest.mark.parametrize(
    ("case", "kind", "inner", "stages", "microbatches"),
    [
        (BY_NAME["relu"], "matching", "gd", 4, 1),
        (BY_NAME["relu"], "squared", "gd", 2, 3),  # a dead unit's gradient is rounding, by which Adam would divide
        (SIGMOID, "squared", "adam", 2, 3),
        (BY_NAME["tanh"], "matching", "adam", 3, 2),
        (BY_NAME["softplus"], "squared", "gd", 3, 1),
        (BY_NAME["logistic"], "squared", "gd", 1, 2),
        (SIGMOID, "matching", "gd", 2, 1),
        (BINARY, "matching", "adam", 2, 6),
        (TANH_CONVOLUTION, "matching", "adam", 3, 2),
        (TANH_CONVOLUTION, "squared", "gd", 1, 3),
        (BY_NAME["embedding"], "matching", "gd", 2, 1),
    ],
    ids=str,
)
def test_the_same_local_steps(case: Case, kind: str, inner: str, stages: int, microbatches: int) -> None:
    plain, model, batch = case.network(), case.network(), case.batch()
    pipeline = InProcessPipeline(partition(model, stages), case.loss, microbatches=microbatches)
    options = {"lr": 0.7, "inner_lr": 0.02, "inner_steps": INNER_STEPS, "damping": 0.3}
    method = build_method("locoprop", pipeline, **{**options, "local_loss": kind, "inner_optimizer": inner})
    oracle = PlainLocoProp(plain, case, kind, 0.7, 0.3)
    optimizer = {"gd": torch.optim.SGD, "adam": torch.optim.Adam}[inner](plain.parameters(), lr=0.02)
    for _ in range(ROUNDS):
        loss = float(plain_mean(case.loss, plain(batch[0]), batch[1]).detach())
        assert method.step(*batch).loss == pytest.approx(loss, abs=1e-10)
        oracle.round(batch, optimizer, 0.02)
        assert largest_difference(plain, model) < 1e-8
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["matching", "squared"])
def test_one_local_step_is_a_gradient_step(kind: str) -> None:
    case = BY_NAME["attention"]
    plain, model, batch = case.network(), case.network(), case.batch()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5 * 0.04)
    pipeline = InProcessPipeline(partition(model, 2), case.loss)
    options = {"lr": 0.5, "inner_lr": 0.04, "inner_steps": 1, "inner_optimizer": "gd", "local_loss": kind}
    method = build_method("locoprop", pipeline, **options)
    for _ in range(3):
        optimizer.zero_grad()
        plain_mean(case.loss, plain(batch[0]), batch[1]).backward()
        optimizer.step()
        method.step(*batch)
    assert largest_difference(plain, model) < 1e-12


def test_attention_blocks_have_targets_too() -> None:
    case = BY_NAME["attention"]
    model = case.network()
    method = LocoProp(InProcessPipeline(partition(model, 2), case.loss, microbatches=2))
    losses = [method.step(*case.batch()).loss for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("microbatches", [1, 4])
def test_no_messages_but_those_of_a_gradient_step(microbatches: int) -> None:
    few = LocoProp(make_pipeline(make_model(), 3, microbatches), inner_steps=2).step(*make_batch())
    many = LocoProp(make_pipeline(make_model(), 3, microbatches), inner_steps=8).step(*make_batch())
    for report in (few, many):
        assert report.messages == 4 * microbatches and report.forward_waves == 1
        assert report.bytes_sent == 4 * SAMPLES * WIDTH * 8
    assert (many.gradient_equivalents - 1) == pytest.approx(7 * (few.gradient_equivalents - 1))
    assert 1.5 < few.gradient_equivalents < 2


class FailingOnce(nn.Linear):
    """Out of memory in the eighth of its forward passes."""

    passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == 8:
            raise RuntimeError("out of memory")
        return super().forward(inputs)


def test_a_first_step_that_fails_is_forgotten() -> None:
    network = nn.Sequential(FailingOnce(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    method = LocoProp(make_pipeline(network, 2))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    with pytest.raises(RuntimeError, match="out of memory"):
        method.step(*make_batch())
    assert method.state_dict()["memory"] == {}
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))


def test_activations_without_a_matching_loss() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match=r"^locoprop's matching loss needs .* layer 1 \(GELU\) is not one"):
        LocoProp(make_pipeline(network))
    LocoProp(make_pipeline(network), local_loss="squared").step(*make_batch())


def test_an_activation_apart_from_its_layer() -> None:
    stages = [nn.Linear(5, 4).double(), nn.Sequential(nn.Tanh(), nn.Linear(4, 3)).double()]
    with pytest.raises(ValueError, match=r"layer 1 \(Tanh\) begins a stage"):
        LocoProp(InProcessPipeline(stages, CrossEntropy()))
    LocoProp(InProcessPipeline(stages, CrossEntropy()), local_loss="squared").step(*make_batch())


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"inner_lr": -1.0}, {"inner_steps": 0}, {"damping": math.nan}])
def test_values_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be "):
        LocoProp(make_pipeline(make_model()), **options)


def test_choices_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"locoprop takes inner_optimizer adam or gd .* got 'armijo'"):
        build_method("locoprop", make_pipeline(make_model()), inner_optimizer="armijo")


class Unused(nn.Module):
    """Has parameters that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.tanh()


def test_parameters_that_do_nothing_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), Unused(), nn.Linear(4, 3)).double()
    method = LocoProp(make_pipeline(network), local_loss="squared")
    losses = [method.step(*make_batch()).loss for _ in range(3)]
    assert torch.equal(network[1].weight, torch.ones(3).double()) and losses[2] < losses[0]


def test_a_stage_without_layers_has_nothing_to_do() -> None:
    model, other = make_model(), make_model()
    lower, upper = partition(model, 2)
    method = build_method("locoprop", InProcessPipeline([lower, nn.Sequential(), upper], CrossEntropy()))
    expected = build_method("locoprop", make_pipeline(other))
    assert method.step(*make_batch()).loss == pytest.approx(expected.step(*make_batch()).loss)
    assert largest_difference(model, other) < 1e-12
