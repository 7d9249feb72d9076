"""Against dense Kronecker factors and a dense Fisher matrix, and against curvlinops."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from curvlinops import KFACLinearOperator
from torch import Tensor, nn

from surmin.losses import CrossEntropy, SquaredError
from surmin.methods.kfac import Kfac
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.cases import BY_NAME, Case
from tests.methods.cases import SAMPLES, WIDTH, check_trains, largest_difference, make_batch, make_model, make_pipeline
from tests.modules import CubeApart, CubeOnce, Cubing
from tests.oracles import (
    DenseBlock,
    gauss_newton,
    gradients,
    layer_blocks,
    loss_hessians,
    points,
    reference_mean_loss,
    run,
)


class PlainKfac:
    """A few lines of dense algebra for networks of linear layers, each with the activation after it."""

    def __init__(self, case: Case, damping: float) -> None:
        self.case, self.damping, self.round = case, damping, 0
        self.factors: list[tuple[Tensor, Tensor]] = []
        self.last: Tensor | None = None

    def step(self, blocks: Sequence[DenseBlock], batch: tuple[Tensor, Tensor]) -> float:
        """Moves the blocks' parameters; returns the loss before."""
        self.round += 1
        past = min(1 - 1 / self.round, 0.95)
        fresh = [kronecker_factors(blocks, self.case, batch, index) for index in range(len(blocks))]
        known = self.factors or fresh
        self.factors = [
            tuple(past * old + (1 - past) * new for old, new in zip(*pair, strict=True))  # type: ignore[misc]
            for pair in zip(known, fresh, strict=True)
        ]
        slopes = gradients(blocks, self.case, *batch)
        newest = torch.cat([-self.precondition(*own) for own in zip(blocks, self.factors, slopes, strict=True)])
        fisher = torch.cat([torch.cat(row, 1) for row in gauss_newton(blocks, self.case, *batch)])
        damped, slope = fisher + self.damping * torch.eye(len(fisher)), torch.cat(slopes)
        basis = newest.unsqueeze(1) if self.last is None else torch.stack([newest, self.last], 1)
        self.last = -basis @ torch.linalg.solve(basis.T @ damped @ basis, basis.T @ slope)
        predicted = float(-(slope @ self.last) - 0.5 * self.last @ damped @ self.last)
        start = [block.vector() for block in blocks]
        loss = float(reference_mean_loss(self.case.loss, run(blocks, batch[0], start), batch[1]))
        moves = self.last.split([block.size for block in blocks])
        there = [value + move for value, move in zip(start, moves, strict=True)]
        ratio = (loss - float(reference_mean_loss(self.case.loss, run(blocks, batch[0], there), batch[1]))) / predicted
        self.damping *= 0.95 if ratio > 0.75 else 1 / 0.95 if ratio < 0.25 else 1.0
        with torch.no_grad():
            for block, vector in zip(blocks, there, strict=True):
                pieces = vector.split([parameter.numel() for parameter in block.trainable.values()])
                for parameter, piece in zip(block.trainable.values(), pieces, strict=True):
                    parameter.copy_(piece.view_as(parameter))
        return loss

    def precondition(self, block: DenseBlock, factors: tuple[Tensor, Tensor], slope: Tensor) -> Tensor:
        """The inverse of the damped Kronecker product, as one dense matrix, in the order weight by rows, then bias."""
        inputs, outputs = factors
        pi = (inputs.trace() / len(inputs) / (outputs.trace() / len(outputs))).sqrt()
        root = self.damping**0.5
        product = torch.kron(outputs + root / pi * torch.eye(len(outputs)), inputs + pi * root * torch.eye(len(inputs)))
        order = torch.arange(len(product)).view(len(outputs), len(inputs))
        if "0.bias" in block.trainable:
            order = torch.cat([order[:, :-1].reshape(-1), order[:, -1]])
        flat = order.reshape(-1)
        return torch.linalg.solve(product[flat][:, flat], slope)


def kronecker_factors(
    blocks: Sequence[DenseBlock], case: Case, batch: tuple[Tensor, Tensor], index: int
) -> tuple[Tensor, Tensor]:
    """Mean outer product of the inputs, 1 appended, and mean J ᵀ ∇²ℓ J in the layer's output before its activation."""
    states = points(blocks, batch[0])
    linear, *rest = blocks[index].module
    inputs = states[index].flatten(1)
    rows = torch.cat([inputs, torch.ones(len(inputs), 1)], 1) if linear.bias is not None else inputs
    before = linear(states[index]).detach()
    total = torch.zeros(before.shape[1], before.shape[1])
    for sample, curvature in zip(before, loss_hessians(case.loss, states[-1], batch[1]), strict=True):
        tail = nn.Sequential(*rest, *(module for block in blocks[index + 1 :] for module in block.module))
        jacobian = torch.autograd.functional.jacobian(lambda value, tail=tail: tail(value.unsqueeze(0))[0], sample)
        total += jacobian.T @ curvature @ jacobian
    return rows.T @ rows / len(rows), total / len(before)


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "stages", "microbatches"), [("tanh", 4, 2), ("softplus", 2, 3), ("logistic", 1, 1), ("relu", 2, 2)]
)
def test_step_for_step(name: str, stages: int, microbatches: int) -> None:
    case = BY_NAME[name]
    blocks, network = layer_blocks(case.network()), case.network()
    pipeline = InProcessPipeline(partition(network, stages), case.loss, microbatches=microbatches)
    method, plain = build_method("kfac", pipeline, damping=0.3), PlainKfac(case, 0.3)
    for _ in range(4):
        report = method.step(*case.batch())
        assert report.damping == pytest.approx(plain.damping)
        assert report.loss == pytest.approx(plain.step(blocks, case.batch()), rel=1e-9)
        for ours, theirs in zip(layer_blocks(network), blocks, strict=True):
            torch.testing.assert_close(ours.vector(), theirs.vector(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()], ids=lambda loss: type(loss).__name__)
def test_the_factors_are_those_of_curvlinops(loss: Any, kind: str) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 3)]
    inputs = torch.randn(7, 6)
    if kind == "convolution":
        layers = [nn.Conv2d(1, 2, 2, padding=1), nn.Tanh(), nn.Conv2d(2, 2, 3, stride=2), nn.Flatten(), nn.Linear(2, 3)]
        inputs = torch.randn(7, 1, 3, 3)
    network = nn.Sequential(*layers)
    targets = torch.randint(3, (7,)) if isinstance(loss, CrossEntropy) else torch.randn(7, 3)
    theirs = nn.CrossEntropyLoss() if isinstance(loss, CrossEntropy) else nn.MSELoss(reduction="mean")
    # their squared error is the mean over outputs of the full square, ours the sum of the half: 2 / 3 of it
    scale = 1.0 if isinstance(loss, CrossEntropy) else 1.5
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    operator = KFACLinearOperator(
        network, theirs, parameters, [(inputs, targets)], fisher_type="type-2", separate_weight_and_bias=False
    )
    pipeline = InProcessPipeline(partition(network, 2), loss)
    method = Kfac(pipeline)
    before = [parameter.detach().clone() for parameter in parameters]
    method.step(inputs, targets)
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    dense = scale * (operator @ torch.eye(operator.shape[1]))
    start = 0
    for moment in method._moments.values():
        product = torch.kron(moment.outputs, moment.inputs)
        order = torch.arange(len(product)).view(len(moment.outputs), len(moment.inputs))
        flat = torch.cat([order[:, :-1].reshape(-1), order[:, -1]])
        own = slice(start, start + len(product))
        torch.testing.assert_close(product[flat][:, flat], dense[own, own], rtol=1e-8, atol=1e-10)
        start += len(product)


def test_messages_and_bytes() -> None:
    stages, microbatches = 3, 4
    method = build_method("kfac", make_pipeline(make_model(), stages, microbatches), curvature_fraction=1.0)
    batch = make_batch()
    for waves in (2, 1):
        report = method.step(*batch)
        assert report.forward_waves == waves + 1  # that of the tangents
        assert report.messages == (stages - 1) * ((waves + 1 + 1 + 1) * microbatches + 2 * 2)
        activations = waves + 1 + 2 + 2  # gradient; two columns of curvature, three classes less one; two tangents
        numbers = 11 + 1
        assert report.bytes_sent == (stages - 1) * 8 * (activations * SAMPLES * WIDTH + 2 * numbers)


def test_random_columns_and_a_part_of_the_batch() -> None:
    batch = make_batch()
    options = {"rank": 2, "curvature_fraction": 0.5}
    models = [make_model() for _ in range(3)]
    losses = []
    for model, stages, seed in zip(models, (1, 3, 1), (5, 5, 6), strict=True):
        method = build_method("kfac", make_pipeline(model, stages), seed=seed, **options)
        losses.append([method.step(*batch).loss for _ in range(15)])
    assert largest_difference(models[0], models[1]) < 1e-9 < largest_difference(models[0], models[2])
    assert losses[0][-1] < 0.7 * losses[0][0]


class Power(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs**3


def test_functions_by_hand_will_do_as_no_second_derivative_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("surmin.methods.hessian.layer.elementwise_second_derivative")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), Power(), nn.Linear(4, 3))
    other = deepcopy(network)
    other[3] = Cubing()
    for model in (network, other):
        method = build_method("kfac", make_pipeline(model))
        for _ in range(3):
            method.step(*make_batch())
    assert largest_difference(network, other) < 1e-9


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("function", [CubeOnce, CubeApart])
def test_functions_by_hand_that_cannot_be_pushed_through_are_refused(
    function: type[torch.autograd.Function], scale: float
) -> None:
    network = nn.Sequential(nn.Linear(5, 4), Cubing(function), nn.Linear(4, 3))
    network[2].weight.data.mul_(scale)  # gradients are as small below the function
    before = deepcopy(network)
    method = build_method("kfac", make_pipeline(network))
    with pytest.raises(RuntimeError, match=r"^layer 1 \(Cubing\) cannot be differentiated as the curvature needs it"):
        method.step(*make_batch())
    assert largest_difference(network, before) == 0


def test_layers_without_factors_are_refused() -> None:
    case = BY_NAME["positions"]
    pipeline = InProcessPipeline(partition(case.network(), 2), case.loss)
    with pytest.raises(
        ValueError, match=r"kfac needs linear layers and convolutions .*: layer 1 \(LayerNorm\) is not one"
    ):
        build_method("kfac", pipeline)


def test_a_frozen_bias_is_refused() -> None:
    case = BY_NAME["frozen"]
    with pytest.raises(ValueError, match=r"all of their parameters trained: layer 6 \(Linear\) is not one"):
        build_method("kfac", InProcessPipeline(partition(case.network(), 2), case.loss))


@pytest.mark.parametrize("name", ["positions", "attention", "frozen"])
def test_methods_that_a_refusal_names_can_train_the_network(name: str) -> None:
    case = BY_NAME[name]
    with pytest.raises(ValueError, match=r"is not one; sm, cgblock-ggn and adam can train this network$"):
        build_method("kfac", InProcessPipeline(partition(case.network(), 2), case.loss))
    names = ["sm", "cgblock-ggn", "adam"]
    check_trains(names, lambda: InProcessPipeline(partition(case.network(), 2), case.loss), case.batch())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping must be a positive number, got 0"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"curvature_fraction": 1.5}, "curvature_fraction must be in"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method("kfac", make_pipeline(make_model()), **options)


def test_the_state_of_another_network_is_refused() -> None:
    method = build_method("kfac", make_pipeline(make_model()))
    method.step(*make_batch())
    state = method.state_dict()
    state["moments"].popitem()
    with pytest.raises(ValueError, match="it has no moments that fit layer"):
        build_method("kfac", make_pipeline(make_model())).load_state_dict(state)
