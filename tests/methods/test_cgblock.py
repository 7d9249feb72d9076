"""Against dense Hessian blocks by nested reverse mode and a plain loop of conjugate gradient."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian

from surmin.errors import NonFiniteError
from surmin.losses import SquaredError
from surmin.methods.common import armijo_search
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.cases import BY_NAME, Case
from tests.device import here
from tests.methods.cases import CLASSES, SAMPLES, WIDTH, largest_difference, make_batch, make_model, make_pipeline
from tests.oracles import DenseBlock, gradients, layer_blocks, reference_mean_loss, run

SETTINGS = [("tanh", 4, 2), ("softplus", 2, 3), ("logistic", 1, 1), ("relu", 2, 2), ("convolution", 3, 1)]


def diagonal_blocks(blocks: Sequence[DenseBlock], case: Case, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    vectors = [block.vector() for block in blocks]

    def loss_of(index: int, value: Tensor) -> Tensor:
        moved = [*vectors[:index], value, *vectors[index + 1 :]]
        return reference_mean_loss(case.loss, run(blocks, batch[0], moved), batch[1])

    return [hessian(lambda value, index=index: loss_of(index, value), vector) for index, vector in enumerate(vectors)]


def plain_cg(matrix: Tensor, gradient: Tensor, steps: int, *, guarded: bool) -> Tensor:
    """The textbook loop."""
    step, residual = torch.zeros_like(gradient), -gradient
    direction = residual
    for number in range(steps):
        curvature = direction @ matrix @ direction
        if guarded and curvature <= 0:
            return -gradient if number == 0 else step
        length = residual @ residual / curvature
        step = step + length * direction
        after = residual - length * (matrix @ direction)
        direction = after + (after @ after) / (residual @ residual) * direction
        residual = after
    return step


def set_to(blocks: Sequence[DenseBlock], vectors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for block, vector in zip(blocks, vectors, strict=True):
            pieces = vector.split([parameter.numel() for parameter in block.trainable.values()])
            for parameter, piece in zip(block.trainable.values(), pieces, strict=True):
                parameter.copy_(piece.view_as(parameter))


def plain_round(
    blocks: Sequence[DenseBlock], case: Case, batch: tuple[Tensor, Tensor], steps: int, safeguard: str, damping: float
) -> int:
    """One round on the blocks' own parameters; returns the trials of the line search."""
    slopes = gradients(blocks, case, *batch)
    matrices = [
        own + damping * torch.eye(len(own), dtype=torch.float64) for own in diagonal_blocks(blocks, case, batch)
    ]
    moves = [
        plain_cg(matrix, slope, steps, guarded=safeguard == "armijo")
        for matrix, slope in zip(matrices, slopes, strict=True)
    ]
    start = [block.vector() for block in blocks]

    def loss_at(length: float) -> float:
        vectors = [value + length * move for value, move in zip(start, moves, strict=True)]
        return float(reference_mean_loss(case.loss, run(blocks, batch[0], vectors), batch[1]).detach())

    slope = sum(float(own @ move) for own, move in zip(slopes, moves, strict=True))
    tries, length = 1, 1.0
    while safeguard == "armijo" and loss_at(length) > loss_at(0.0) + 1e-4 * length * slope:
        tries, length = tries + 1, length / 2
    set_to(blocks, [value + length * move for value, move in zip(start, moves, strict=True)])
    return tries


@pytest.mark.parametrize("options", [{}, {"safeguard": "none"}, {"safeguard": "damping", "damping": 0.3}], ids=str)
@pytest.mark.parametrize(("name", "stages", "microbatches"), SETTINGS)
def test_step_for_step(name: str, stages: int, microbatches: int, options: dict[str, Any]) -> None:
    case = BY_NAME[name]
    plain, piped = layer_blocks(case.network()), case.network()
    batch = case.batch()
    pipeline = InProcessPipeline(partition(piped, min(stages, len(plain))), case.loss, microbatches=microbatches)
    method = build_method("cgblock", pipeline, **{"inner_steps": 3, **options})
    safeguard = options.get("safeguard", "armijo")
    for _ in range(2 if safeguard == "none" else 3):  # without one it diverges, and enlarges rounding errors
        loss = reference_mean_loss(case.loss, run(plain, batch[0], [block.vector() for block in plain]), batch[1])
        tries = plain_round(plain, case, batch, 3, safeguard, options.get("damping", 0.0))
        report = method.step(*batch)
        assert report.loss == pytest.approx(float(loss), rel=1e-9, abs=1e-10)
        assert safeguard != "armijo" or (report.tries, report.accepted) == (tries, True)
        found = [block.vector() for block in layer_blocks(piped)]
        for ours, theirs in zip(found, plain, strict=True):
            torch.testing.assert_close(ours, theirs.vector(), rtol=1e-8, atol=1e-8)


def test_messages_bytes_and_work() -> None:
    stages, microbatches, steps = 3, 4, 5
    pipeline = make_pipeline(make_model(), stages, microbatches)
    method = build_method("cgblock", pipeline, inner_steps=steps)
    batch = make_batch()
    first, second = method.step(*batch), method.step(*batch)
    for report, waves in ((first, 1 + first.tries), (second, second.tries)):
        assert report.forward_waves == waves + steps
        tangents = 2 * steps * microbatches
        totals = 2 * (1 + report.tries)
        assert report.messages == (stages - 1) * ((waves + 1) * microbatches + tangents + totals)
        columns = 1 + 2  # of the first layer, then of the first two
        activations = (stages - 1) * (waves + 1) + 2 * steps * columns
        assert report.bytes_sent == activations * SAMPLES * WIDTH * 8 + (stages - 1) * 2 * (3 + report.tries) * 8
        assert report.gradient_equivalents > 2
    plain = build_method("cgblock", make_pipeline(make_model(), stages), inner_steps=steps, safeguard="none")
    assert plain.step(*batch).messages == (stages - 1) * (2 + 2 * steps)


def test_micro_batches_cost_no_more_work() -> None:
    batch = make_batch()
    work = [
        build_method("cgblock", make_pipeline(make_model(), 3, parts), inner_steps=2).step(*batch) for parts in (1, 4)
    ]
    assert work[0].gradient_equivalents == pytest.approx(work[1].gradient_equivalents)


def test_without_a_good_trial_the_parameters_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(armijo_search, "SUFFICIENT", 1e9)
    model = make_model()
    method = build_method("cgblock", make_pipeline(model))
    report = method.step(*make_batch())
    assert not report.accepted and report.tries == armijo_search.MAX_TRIES
    assert largest_difference(model, make_model()) == 0


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    models = [make_model() for _ in range(2)]
    with torch.no_grad():
        for model in models:
            list(model.parameters())[-2].mul_(1e308).mul_(10)
    with pytest.raises(NonFiniteError, match="no step can be tested against a loss of"):
        build_method("cgblock", make_pipeline(models[0])).step(*make_batch())
    for ours, before in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(ours, before)


@pytest.mark.parametrize("microbatches", [2, 3])
def test_mini_batches_of_changing_shape(microbatches: int) -> None:
    whole, cut = make_model(), make_model()
    methods = [
        build_method("cgblock", make_pipeline(whole, 1), inner_steps=2),
        build_method("cgblock", make_pipeline(cut, 3, microbatches), inner_steps=2),
    ]
    inputs, targets = make_batch()
    for rows in (slice(0, 12), slice(12, 24), slice(0, 6), slice(0, 12)):
        for method in methods:
            method.step(inputs[rows], targets[rows])
    assert largest_difference(whole, cut) < 1e-9


def test_on_tokens_attention_goes_by_forward_over_reverse_mode() -> None:
    case = BY_NAME["attention"]
    pipeline = InProcessPipeline(partition(case.network(), 2), case.loss, microbatches=2)
    method = build_method("cgblock", pipeline, inner_steps=3)
    losses = [method.step(*case.batch()).loss for _ in range(4)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"safeguard": "wolfe"}, "safeguard must be one of none, damping, armijo, got 'wolfe'"),
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"damping": 0.1}, "damping is λ of safeguard 'damping', it has no place in safeguard 'armijo'"),
        ({"damping": -1.0, "safeguard": "damping"}, "damping must be a positive number, got -1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method("cgblock", make_pipeline(make_model()), **options)


def test_a_batch_that_does_not_fit_is_refused() -> None:
    method = build_method("cgblock", make_pipeline(make_model()))
    inputs, _ = make_batch()
    with pytest.raises(ValueError, match=f"labels run from 0 to {CLASSES}"):
        method.step(inputs, (torch.arange(SAMPLES) == 0) * CLASSES)


def test_at_a_minimum_one_trial_is_enough_to_see_it() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2).double()
    inputs = torch.randn(6, 3, dtype=torch.float64)
    targets = layer(inputs).detach() + 1
    method = build_method("cgblock", InProcessPipeline([layer], SquaredError()), inner_steps=8)
    reports = [method.step(inputs, targets) for _ in range(6)]
    assert reports[0].accepted and reports[0].new_loss < 1e-20
    most = 2 if here().type == "cpu" else 3  # sums of a GPU are rounded differently
    assert not reports[-1].accepted and reports[-1].tries <= most
