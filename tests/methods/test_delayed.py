"""DDG, Features Replay and FDG against autograd through the whole network, with lists of old weights and messages."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from surmin.methods.base import Method
from surmin.methods.fdg import FullyDecoupled
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.tracing import SpanRecorder
from surmin.stages.partition import partition
from tests.cases import BY_NAME, CASES, Case
from tests.experiments.runs.states import equal
from tests.methods.cases import SAMPLES, WIDTH, largest_difference, make_batch, make_model, make_pipeline

METHODS = ["ddg", "features-replay", "fdg"]
ROUNDS = 9
LR = 0.05
Weights = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


class Oracle:
    """The stages of a plain network; stage k of the sources is number k - 1 here, and the last is K - 1."""

    def __init__(self, network: nn.Sequential, case: Case, stages: int) -> None:
        self.modules = partition(network, stages)
        self.last = stages - 1
        self.case = case
        self.history: list[list[Weights]] = []
        self.batches: list[Batch] = []
        self.entered: list[list[Tensor]] = []
        self.messages: dict[tuple[int, int], Tensor] = {}

    def found(self, name: str, batch: Batch) -> tuple[float, dict[int, list[Tensor]]]:
        """One round's loss, and its gradients by stage."""
        self.batches.append(batch)
        self.history.append(
            [{n: p.detach().clone().requires_grad_() for n, p in own.named_parameters()} for own in self.modules]
        )
        return {"ddg": self.delayed, "features-replay": self.replayed, "fdg": self.fully}[name]()

    def delayed(self) -> tuple[float, dict[int, list[Tensor]]]:
        t = len(self.batches) - 1
        rounds = {k: t - (self.last - k) for k in range(self.last + 1)}
        gradients = {k: self.gradient(self.history[s], self.batches[s], k) for k, s in rounds.items() if s >= 0}
        return float(self.loss(self.history[t], self.batches[t]).detach()), gradients

    def fully(self) -> tuple[float, dict[int, list[Tensor]]]:
        """Batch s meets the weights that stage k has in round s + k."""
        t = len(self.batches) - 1
        rounds = {k: t - 2 * self.last + k for k in range(self.last + 1)}
        gradients = {k: self.gradient(self.met(s), self.batches[s], k) for k, s in rounds.items() if s >= 0}
        top = t - self.last
        return float(self.loss(self.met(top), self.batches[top]).detach()) if top >= 0 else math.nan, gradients

    def met(self, s: int) -> list[Weights]:
        return [self.history[s + k][k] for k in range(self.last + 1)]

    def replayed(self) -> tuple[float, dict[int, list[Tensor]]]:
        t, gradients = len(self.batches) - 1, {}
        states = [self.batches[t][0]]
        for module, own in zip(self.modules, self.history[t], strict=True):
            states.append(functional_call(module, own, (states[-1],)).detach())
        self.entered.append(states)
        for k, module in enumerate(self.modules):
            s = t - (self.last - k)
            if s < 0:
                continue
            state = self.entered[s][k].clone()
            state.requires_grad_(state.is_floating_point())
            output = functional_call(module, self.history[t][k], (state,))
            if k == self.last:
                value = self.case.loss.sample_losses(output, self.batches[t][1]).mean()
            else:
                value = (output * self.messages.pop((k, t))).sum()
            wanted = [*self.wanted(self.history[t], k), *([state] if k else [])]
            found = list(torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True))
            if k:
                self.messages[k - 1, t + 1] = found.pop()
            gradients[k] = found
        return float(self.case.loss.sample_losses(states[-1], self.batches[t][1]).mean()), gradients

    def loss(self, weights: list[Weights], batch: Batch) -> Tensor:
        state = batch[0]
        for module, own in zip(self.modules, weights, strict=True):
            state = functional_call(module, own, (state,))
        return self.case.loss.sample_losses(state, batch[1]).mean()

    def gradient(self, weights: list[Weights], batch: Batch, k: int) -> list[Tensor]:
        wanted = self.wanted(weights, k)
        if not wanted:
            return []
        loss = self.loss(weights, batch)
        return list(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))

    def wanted(self, weights: list[Weights], k: int) -> list[Tensor]:
        return [weights[k][n] for n, p in self.modules[k].named_parameters() if p.requires_grad]

    def trainable(self, k: int) -> list[nn.Parameter]:
        return [p for p in self.modules[k].parameters() if p.requires_grad]


def make_optimizer(name: str, network: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    if name == "adam":
        return torch.optim.Adam(parameters, lr=LR)
    return torch.optim.SGD(parameters, lr=LR, momentum=0.9)


def check(
    name: str, case: Case, stages: int, microbatches: int, optimizer: str = "sgd", sizes: tuple[int, ...] = (6,),
    shrinking: float = 1.0,
) -> None:  # fmt: skip
    plain, piped = case.network(), case.network()
    oracle, stepping = Oracle(plain, case, stages), make_optimizer(optimizer, plain)
    pipeline = InProcessPipeline(partition(piped, stages), case.loss, microbatches=microbatches)
    if shrinking == 1:
        method = build_method(name, pipeline, lr=LR, optimizer=optimizer)
    else:
        method = FullyDecoupled(pipeline, lr=LR, optimizer=optimizer, shrinking=shrinking)
    for number in range(ROUNDS):
        batch = case.batch(sizes[number % len(sizes)], seed=number)
        loss, gradients = oracle.found(name, batch)
        stepping.zero_grad()
        for stage, found in gradients.items():
            for parameter, gradient in zip(oracle.trainable(stage), found, strict=True):
                parameter.grad = shrinking ** (oracle.last - stage) * gradient
        stepping.step()
        assert method.step(*batch).loss == pytest.approx(loss, abs=1e-10, nan_ok=True)
        assert largest_difference(plain, piped) < 1e-10, f"round {number}"


TWO = ("logistic", "positions", "frozen", "parameter-free")
FEW = {"softplus": 3, "convolution": 3, "embedding": 3, **dict.fromkeys(TWO, 2)}
"""Stages of networks that cannot be cut into four."""


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_every_network_step_for_step(name: str, case: Case) -> None:
    check(name, case, FEW.get(case.name, 4), microbatches=2)


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("name", METHODS)
def test_any_number_of_stages_and_microbatches(name: str, stages: int, microbatches: int) -> None:
    check(name, BY_NAME["tanh"], stages, microbatches, optimizer="adam")


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("stages", [3, 4])
def test_a_gradient_shrinks_once_for_every_stage_it_comes_down(stages: int, microbatches: int) -> None:
    for shrinking in (0.5, 0.9):
        check("fdg", BY_NAME["tanh"], stages, microbatches, shrinking=shrinking)


@pytest.mark.parametrize("name", METHODS)
def test_batches_of_several_sizes(name: str) -> None:
    check(name, BY_NAME["relu"], 4, microbatches=2, sizes=(6, 4, 4, 8))


@pytest.mark.parametrize("name", METHODS)
def test_batches_that_come_in_the_same_tensors(name: str) -> None:
    model, other_model = make_model(), make_model()
    method, other = (build_method(name, make_pipeline(own, 3), lr=LR) for own in (model, other_model))
    inputs, targets = make_batch()
    for number in range(ROUNDS):
        batch = make_batch(number // 2)
        if number % 2 == 0:
            inputs.copy_(batch[0])
            targets.copy_(batch[1])
        method.step(*batch)
        other.step(inputs, targets)
    assert largest_difference(model, other_model) == 0


def pickled(method: Method) -> Method:
    copied: Method = pickle.loads(pickle.dumps(method))
    return copied


@pytest.mark.parametrize("copied_by", [copy.deepcopy, pickled])
@pytest.mark.parametrize("name", METHODS)
def test_a_copy_goes_on_by_itself(name: str, copied_by: Callable[[Method], Method]) -> None:
    method = build_method(name, make_pipeline(make_model(), 3), lr=LR)
    for number in range(3):
        method.step(*make_batch(number))
    copied = copied_by(method)
    found = [[own.step(*make_batch(number)).loss for number in range(3, 8)] for own in (method, copied)]
    assert found[0] == found[1]


@pytest.mark.parametrize("name", METHODS)
def test_stages_stay_as_they_are_until_their_first_gradient(name: str) -> None:
    model = make_model()
    pipeline = make_pipeline(model, 3)
    method = build_method(name, pipeline)
    first = [[p.detach().clone() for layer in own.layers for p in layer.parameters.values()] for own in pipeline.stages]
    waits = [4, 3, 2] if name == "fdg" else [2, 1, 0]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)  # one of the user's own
    for number in range(5):
        method.step(*make_batch(number))
        moved = [
            not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            for before, after in zip(first, (_values(own) for own in pipeline.stages), strict=True)
        ]
        assert moved == [number >= wait for wait in waits]


def _values(stage: Any) -> list[Tensor]:
    return [parameter.detach() for layer in stage.layers for parameter in layer.parameters.values()]


@pytest.mark.parametrize("shrinking", [0.5, 1.0])
def test_every_stage_shrinks_what_it_receives(shrinking: float) -> None:
    """Until the lowest stage moves, the gradients are those of the first weights but for the top's own steps."""
    model, inputs_and_targets = make_model(), make_batch()
    pipeline = make_pipeline(model, 2)
    method = FullyDecoupled(pipeline, lr=1e-300, optimizer="sgd", shrinking=shrinking)
    norms = [method.step(*inputs_and_targets).gradient_norm for _ in range(3)]
    loss = nn.functional.cross_entropy(model(inputs_and_targets[0]), inputs_and_targets[1])
    below, above = (
        sum(float(g.square().sum()) for g in torch.autograd.grad(loss, _leaves(stage), retain_graph=True))
        for stage in pipeline.stages
    )
    assert norms == pytest.approx([0, math.sqrt(above), math.sqrt(above + shrinking**2 * below)], rel=1e-12)


def _leaves(stage: Any) -> list[nn.Parameter]:
    return [parameter for layer in stage.layers for parameter in layer.parameters.values()]


@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize("name", METHODS)
def test_messages_and_work(name: str, microbatches: int) -> None:
    """Activations and gradients cross two boundaries; replaying is a forward pass more below the top."""
    pipeline = make_pipeline(make_model(), 3, microbatches)
    method = build_method(name, pipeline)
    crossings = [(min(t, 2) if name == "fdg" else 2) for t in range(1, 7)]
    gradients = [max(0, min(t - 2, 2)) if name == "fdg" else min(t, 2) for t in range(1, 7)]
    for activations, messages in zip(crossings, gradients, strict=True):
        report = method.step(*make_batch())
        assert report.messages == (activations + messages) * microbatches
        assert report.bytes_sent == (activations + messages) * SAMPLES * WIDTH * 8
        assert report.forward_waves == 1
    part = torch.Size([SAMPLES // microbatches, make_batch()[0].shape[1]])
    forward, backward = (
        [pipeline.work.known((wave, part, position)) for position in range(3)] for wave in ("forward", "backward")
    )
    extra = sum(forward[:2]) / (sum(forward) + sum(backward)) if name == "features-replay" else 0
    assert report.gradient_equivalents == pytest.approx(1 + extra)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
def test_a_saved_method_continues_exactly_with_other_microbatches(name: str, rounds: int) -> None:
    model, other_model = make_model(), make_model()
    method, other = build_method(name, make_pipeline(model, 3, 2)), None
    for number in range(rounds):
        method.step(*make_batch(number))
    other_model.load_state_dict(model.state_dict())
    other = build_method(name, make_pipeline(other_model, 3, 3))
    other.load_state_dict(method.state_dict())
    assert equal(other.state_dict(), method.state_dict())
    for number in range(rounds, rounds + 6):
        batch = make_batch(number)
        reports = [own.step(*batch) for own in (method, other)]
        assert reports[0].loss == pytest.approx(reports[1].loss, abs=1e-12, nan_ok=True)
        assert reports[0].gradient_equivalents == pytest.approx(reports[1].gradient_equivalents)
    assert largest_difference(model, other_model) < 1e-12


def test_what_is_kept() -> None:
    """Old weights in DDG, none in Features Replay; the inputs of as many batches in both."""
    kept = {}
    for name in METHODS:
        method = build_method(name, make_pipeline(make_model(), 3))
        for number in range(6):
            method.step(*make_batch(number))
        stages = method.state_dict()["stages"]
        kept[name] = [
            (len(own["underway"]), sum("weights" in one for one in own["underway"])) for own in stages.values()
        ]
    assert kept == {
        "ddg": [(2, 2), (1, 1), (0, 0)], "features-replay": [(2, 0), (1, 0), (0, 0)], "fdg": [(4, 4), (2, 2), (0, 0)],
    }  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_the_state_of_other_stages_is_refused(name: str) -> None:
    method, model = build_method(name, make_pipeline(make_model(), 3)), make_model()
    for _ in range(3):
        method.step(*make_batch())
    for stages in (1, 2):
        other = build_method(name, make_pipeline(model, stages))
        with pytest.raises(ValueError, match=r"the state is of other stages, none of them of layers \d to \d: grad"):
            other.load_state_dict(method.state_dict())
        assert largest_difference(model, make_model()) == 0


@pytest.mark.parametrize("name", METHODS)
def test_batches_under_way_that_do_not_divide_are_refused(name: str) -> None:
    """There were 24 samples; new batches may divide by five, those that were saved do not."""
    method = build_method(name, make_pipeline(make_model(), 3, 2))
    for _ in range(3):
        method.step(*make_batch())
    other = build_method(name, make_pipeline(make_model(), 3, 5))
    with pytest.raises(ValueError, match="a batch of 24 samples is under way, which 5 micro-batches do not divide"):
        other.load_state_dict(method.state_dict())


@pytest.mark.parametrize("name", METHODS)
def test_what_cannot_be(name: str) -> None:
    pipeline = make_pipeline(make_model(), 2)
    with pytest.raises(ValueError, match="unknown optimizer 'lion': choose gd, sgd, adam"):
        build_method(name, pipeline, optimizer="lion")
    for lr in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="lr must be a positive number"):
            build_method(name, pipeline, lr=lr)
    for shrinking in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="shrinking must be above 0 and at most 1"):
            FullyDecoupled(pipeline, lr=0.1, optimizer="sgd", shrinking=shrinking)
    network = nn.ModuleList([nn.Linear(5, 3).double(), nn.Sequential()])
    with pytest.raises(ValueError, match="delayed gradients need a layer in every stage"):
        build_method(name, InProcessPipeline(list(network), pipeline.loss))


@pytest.mark.parametrize("name", METHODS)
def test_a_bad_batch_changes_nothing(name: str) -> None:
    model, other_model = make_model(), make_model()
    methods = [build_method(name, make_pipeline(own, 3)) for own in (model, other_model)]
    inputs, targets = make_batch()
    for number in range(6):
        if number in (0, 3):
            with pytest.raises(ValueError, match="labels run from"):
                methods[0].step(inputs, targets + 2)
        for method in methods:
            method.step(*make_batch(number))
    assert largest_difference(model, other_model) == 0


def test_spans_carry_the_number_of_the_microbatch() -> None:
    pipeline = make_pipeline(make_model(), 2, 3)
    pipeline.tracer = recorder = SpanRecorder(0)
    method = build_method("features-replay", pipeline)
    for _ in range(2):
        recorder.take()
        method.step(*make_batch())
    spans = recorder.take()
    counts = {letter: [span.microbatch for span in spans if span.letter == letter] for letter in "FBU"}
    assert counts == {"F": [*sorted([0, 1, 2] * 2), 0, 1, 2], "B": [0, 1, 2] * 2, "U": [None]}
