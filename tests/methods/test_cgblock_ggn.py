"""Against dense Gauss-Newton blocks, a plain loop of conjugate gradient and a plain line search."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from surmin.errors import NonFiniteError
from surmin.methods.common import armijo_search
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.cases import BY_NAME, Case
from tests.methods.cases import SAMPLES, WIDTH, largest_difference, make_batch, make_model, make_pipeline
from tests.oracles import DenseBlock, gauss_newton, gradients, layer_blocks, reference_mean_loss, run

STEPS = 3


class PlainRounds:
    """The same rounds in dense algebra."""

    def __init__(self, blocks: Sequence[DenseBlock], case: Case, damping: float) -> None:
        self.blocks, self.case, self.damping = blocks, case, damping
        self.last = [torch.zeros_like(block.vector()) for block in blocks]

    def step(self, batch: tuple[Tensor, Tensor]) -> tuple[float, int]:
        """Moves the blocks; the loss before, and the trials of the line search."""
        slopes = gradients(self.blocks, self.case, *batch)
        matrices = [row[index] for index, row in enumerate(gauss_newton(self.blocks, self.case, *batch))]
        self.last = [self._solve(*own) for own in zip(matrices, slopes, self.last, strict=True)]
        start = [block.vector() for block in self.blocks]

        def loss_at(length: float) -> float:
            vectors = [value + length * move for value, move in zip(start, self.last, strict=True)]
            return float(reference_mean_loss(self.case.loss, run(self.blocks, batch[0], vectors), batch[1]).detach())

        slope = sum(float(own @ move) for own, move in zip(slopes, self.last, strict=True))
        bend = sum(float(move @ matrix @ move) for matrix, move in zip(matrices, self.last, strict=True))
        tries, length = 1, 1.0
        while loss_at(length) > loss_at(0.0) + 1e-4 * length * slope:
            tries, length = tries + 1, length / 2
        loss = loss_at(0.0)
        ratio = (loss - loss_at(length)) / -(length * slope + length**2 * bend / 2)
        self.damping *= 1.5 if ratio < 0.25 else 2 / 3 if ratio > 0.75 else 1.0
        with torch.no_grad():
            for block, value, move in zip(self.blocks, start, self.last, strict=True):
                pieces = (value + length * move).split([parameter.numel() for parameter in block.trainable.values()])
                for parameter, piece in zip(block.trainable.values(), pieces, strict=True):
                    parameter.copy_(piece.view_as(parameter))
        return loss, tries

    def _solve(self, matrix: Tensor, slope: Tensor, last: Tensor) -> Tensor:
        damped = matrix + self.damping * torch.eye(len(matrix), dtype=torch.float64)
        step = 0.95 * last
        residual = -slope - damped @ step
        direction = residual
        for _ in range(STEPS):
            length = residual @ residual / (direction @ damped @ direction)
            step = step + length * direction
            after = residual - length * (damped @ direction)
            direction = after + (after @ after) / (residual @ residual) * direction
            residual = after
        return step


@pytest.mark.parametrize(
    ("name", "stages", "microbatches"),
    [("tanh", 4, 2), ("softplus", 2, 3), ("logistic", 1, 1), ("relu", 2, 2), ("convolution", 3, 1)],
)
def test_step_for_step(name: str, stages: int, microbatches: int) -> None:
    case = BY_NAME[name]
    blocks, network = layer_blocks(case.network()), case.network()
    pipeline = InProcessPipeline(partition(network, stages), case.loss, microbatches=microbatches)
    options = {"inner_steps": STEPS, "damping": 0.2, "curvature_fraction": 1.0}
    method, plain = build_method("cgblock-ggn", pipeline, **options), PlainRounds(blocks, case, 0.2)
    for _ in range(4):
        report = method.step(*case.batch())
        assert report.damping == pytest.approx(plain.damping)
        loss, tries = plain.step(case.batch())
        assert (report.loss, report.tries, report.accepted) == (pytest.approx(loss, rel=1e-9), tries, True)
        for ours, theirs in zip(layer_blocks(network), blocks, strict=True):
            torch.testing.assert_close(ours.vector(), theirs.vector(), rtol=1e-8, atol=1e-8)


def test_messages_and_bytes() -> None:
    stages, microbatches = 3, 4
    method = build_method("cgblock-ggn", make_pipeline(make_model(), stages, microbatches), curvature_fraction=1.0)
    batch = make_batch()
    for first in (1, 0):
        report = method.step(*batch)
        waves = first + report.tries
        assert report.forward_waves == waves
        assert report.messages == (stages - 1) * ((waves + 2) * microbatches + 2 * (1 + report.tries))
        columns = 2  # one less than classes
        activations = (waves + 1 + columns) * SAMPLES * WIDTH
        assert report.bytes_sent == (stages - 1) * 8 * (activations + 2 * (4 + report.tries))


def test_random_columns_and_a_part_of_the_batch() -> None:
    batch = make_batch()
    models = [make_model() for _ in range(3)]
    for model, stages, seed in zip(models, (1, 3, 1), (5, 5, 6), strict=True):
        method = build_method("cgblock-ggn", make_pipeline(model, stages), seed=seed, rank=2, inner_steps=3)
        losses = [method.step(*batch).loss for _ in range(8)]
        assert losses[-1] < losses[0]
    assert largest_difference(models[0], models[1]) < 1e-9 < largest_difference(models[0], models[2])


def test_without_a_good_trial_the_parameters_stay_and_damping_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(armijo_search, "SUFFICIENT", 1e9)
    model = make_model()
    method = build_method("cgblock-ggn", make_pipeline(model), damping=1.0)
    report = method.step(*make_batch())
    assert not report.accepted and report.tries == armijo_search.MAX_TRIES
    assert method.step(*make_batch()).damping == 1.5
    assert largest_difference(model, make_model()) == 0


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    models = [make_model() for _ in range(2)]
    with torch.no_grad():
        for model in models:
            list(model.parameters())[-2].mul_(1e308).mul_(10)
    with pytest.raises(NonFiniteError, match="no step can be tested against a loss of"):
        build_method("cgblock-ggn", make_pipeline(models[0])).step(*make_batch())
    for ours, before in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(ours, before)


def test_on_tokens_with_random_columns() -> None:
    case = BY_NAME["attention"]
    pipeline = InProcessPipeline(partition(case.network(), 2), case.loss, microbatches=2)
    method = build_method("cgblock-ggn", pipeline, inner_steps=3, rank=2, curvature_fraction=1.0)
    losses = [method.step(*case.batch()).loss for _ in range(5)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping must be a positive number, got 0"),
        ({"inner_steps": 0}, "inner_steps must be at least 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"curvature_fraction": 0.0}, "curvature_fraction must be in"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method("cgblock-ggn", make_pipeline(make_model()), **options)


def test_the_state_of_another_network_is_refused() -> None:
    method = build_method("cgblock-ggn", make_pipeline(make_model()))
    method.step(*make_batch())
    state = method.state_dict()
    state["previous_step"].popitem()
    with pytest.raises(ValueError, match="it has nothing that fits parameter"):
        build_method("cgblock-ggn", make_pipeline(make_model())).load_state_dict(state)
