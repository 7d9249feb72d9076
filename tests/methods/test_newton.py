"""Against a dense Hessian by nested reverse mode."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian

from surmin.losses import CrossEntropy, SquaredError
from surmin.methods import newton
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.cases import BY_NAME, Case
from tests.methods.cases import make_batch, make_model, make_pipeline
from tests.oracles import DenseBlock, layer_blocks, reference_mean_loss, run


def plain_round(
    blocks: Sequence[DenseBlock], case: Case, batch: tuple[Tensor, Tensor], damping: float, safeguard: str
) -> int:
    """One round on the blocks' own parameters; returns the trials of the line search."""
    sizes = [block.size for block in blocks]

    def loss_at(vector: Tensor) -> Tensor:
        return reference_mean_loss(case.loss, run(blocks, batch[0], vector.split(sizes)), batch[1])

    start = torch.cat([block.vector() for block in blocks]).requires_grad_()
    (slope,) = torch.autograd.grad(loss_at(start), start)
    start = start.detach()
    matrix = hessian(loss_at, start)
    if safeguard == "armijo":
        values, vectors = torch.linalg.eigh(matrix)
        matrix = vectors @ values.abs().diag() @ vectors.T
    move = torch.linalg.solve(matrix + damping * torch.eye(len(matrix), dtype=torch.float64), -slope)
    tries, length = 1, 1.0
    while safeguard == "armijo" and loss_at(start + length * move) > loss_at(start) + 1e-4 * length * (slope @ move):
        tries, length = tries + 1, length / 2
    with torch.no_grad():
        for block, vector in zip(blocks, (start + length * move).split(sizes), strict=True):
            pieces = vector.split([parameter.numel() for parameter in block.trainable.values()])
            for parameter, piece in zip(block.trainable.values(), pieces, strict=True):
                parameter.copy_(piece.view_as(parameter))
    return tries


@pytest.mark.parametrize("safeguard", ["armijo", "none"])
@pytest.mark.parametrize(
    ("name", "stages", "microbatches"),
    [("tanh", 4, 2), ("softplus", 2, 3), ("logistic", 1, 1), ("convolution", 3, 1), ("embedding", 3, 2)],
)
def test_step_for_step(
    name: str, stages: int, microbatches: int, safeguard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton, "COLUMNS", 7)
    case = BY_NAME[name]
    blocks, network = layer_blocks(case.network()), case.network()
    pipeline = InProcessPipeline(partition(network, stages), case.loss, microbatches=microbatches)
    method = build_method("newton", pipeline, damping=0.2, safeguard=safeguard)
    for _ in range(3):
        report = method.step(*case.batch())
        tries = plain_round(blocks, case, case.batch(), 0.2, safeguard)
        assert safeguard == "none" or (report.tries, report.accepted) == (tries, True)
        for ours, theirs in zip(layer_blocks(network), blocks, strict=True):
            torch.testing.assert_close(ours.vector(), theirs.vector(), rtol=1e-8, atol=1e-8)


def test_one_plain_step_solves_least_squares() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 2).double()
    inputs, targets = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    pipeline = InProcessPipeline([layer], SquaredError())
    build_method("newton", pipeline, damping=0.0, safeguard="none").step(inputs, targets)
    rows = torch.cat([inputs, torch.ones(9, 1, dtype=torch.float64)], 1)
    expected = torch.linalg.lstsq(rows, targets).solution
    torch.testing.assert_close(torch.cat([layer.weight.T, layer.bias.unsqueeze(0)]).detach(), expected)


def test_a_singular_hessian_is_no_obstacle() -> None:
    """Softmax does not feel a shift of all outputs, and the step has none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3)).double()
    pipeline = make_pipeline(model, 1)
    batch = make_batch()
    before = model[0].bias.detach().sum()
    method = build_method("newton", pipeline, damping=0.0)
    norms = [method.step(*batch).gradient_norm for _ in range(11)]
    assert norms[-1] < 1e-9 < norms[0]
    assert float(model[0].bias.detach().sum() - before) == pytest.approx(0, abs=1e-9)


def test_messages_and_work() -> None:
    stages = 3
    model = make_model()
    method = build_method("newton", make_pipeline(model, stages))
    report = method.step(*make_batch())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    products = -(-parameters // newton.COLUMNS)
    assert report.messages == (stages - 1) * (1 + 1 + report.tries + 2 * products + 2 * (2 + report.tries))
    assert report.bytes_sent > (stages - 1) * 2 * 8 * parameters**2
    assert report.gradient_equivalents > 2 * parameters


def test_a_network_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "MOST_PARAMETERS", 100)
    with pytest.raises(ValueError, match=r"newton needs a network of at most 100 parameters .*, this one has 122"):
        build_method("newton", make_pipeline(make_model()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": -1.0}, "damping must be a number from 0 up"),
        ({"safeguard": "damping"}, "none or armijo, got 'damp"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method("newton", make_pipeline(make_model()), **options)


def test_without_damping_rounding_errors_are_not_stepped_along() -> None:
    """With softmax H is singular; in float32 its zero eigenvalues come out far above float64's rounding errors."""
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
        inputs, targets = torch.randn(12, 4, dtype=torch.float64).to(dtype), torch.arange(12) % 3
        before = torch.cat([value.detach().flatten() for value in network.parameters()])
        pipeline = InProcessPipeline([network], CrossEntropy())
        build_method("newton", pipeline, damping=0.0, safeguard="none").step(inputs, targets)
        found.append(torch.cat([value.detach().flatten() for value in network.parameters()]) - before)
    assert found[0].norm() < 1.5 * found[1].norm()


@pytest.mark.parametrize("method", ["newton", "cgblock"])
def test_parameters_without_dimensions(method: str) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.scale * inputs.tanh()

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), Scaled(), nn.Linear(4, 2)).double()
    inputs, targets = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    report = build_method(method, InProcessPipeline([network], SquaredError())).step(inputs, targets)
    assert report.gradient_equivalents > 0 and all(value.isfinite().all() for value in network.parameters())
