"""Ψ = h of the last stage: against automatic differentiation for every loss, on a part of the samples, in float32."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.gauss_newton import weighted_sum
from surmin.losses import SquaredError
from surmin.pipeline.in_process import InProcessPipeline
from surmin.surrogates.output_surrogate import NetworkLoss
from tests.cases import BY_NAME, CASES, SAMPLES, Case
from tests.oracles import reference_mean_loss


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_network_s_own_loss(case: Case) -> None:
    inputs, targets = case.batch()
    with torch.no_grad():
        output = case.network()(inputs)
    surrogate = NetworkLoss(case.loss, targets, FactorCurvature(fraction=1.0)).inflated(3.0)

    def mean_loss(there: Tensor) -> Tensor:
        return reference_mean_loss(case.loss, there.view_as(output), targets)

    leaf = output.clone().requires_grad_()
    (expected,) = torch.autograd.grad(mean_loss(leaf), leaf)
    point = surrogate.at(output)
    torch.testing.assert_close(point.value, mean_loss(output))
    torch.testing.assert_close(point.cotangent(), expected)
    (columns,) = surrogate.columns(output, 1.0, seed=0)
    samples = columns.shape[1]
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=output.dtype)
    coefficients = torch.linalg.vecdot(columns.flatten(2), direction.flatten(1))
    bent = weighted_sum(columns, coefficients) / samples
    full = hessian(mean_loss, output.flatten())
    torch.testing.assert_close(bent.flatten(), full @ direction.flatten(), rtol=1e-9, atol=1e-12)
    assert (surrogate.inflation, samples) == (3.0, SAMPLES)


def test_a_part_is_of_the_samples_that_carry_curvature() -> None:
    case = BY_NAME["tanh"]
    inputs, targets = case.batch(samples=24)
    surrogate = NetworkLoss(case.loss, targets, FactorCurvature(fraction=0.5))
    columns, rows = surrogate.columns(case.network()(inputs).detach(), 0.5, seed=0)
    assert columns.shape[1] == len(rows) == 6


class Told(SquaredError):
    """Every sample's target is its loss."""

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return targets.squeeze(1)


def test_it_is_summed_in_float64_as_in_the_forward_wave() -> None:
    """The mean is no number of float32, which losses in float32 come to."""
    network, inputs, targets = nn.Linear(3, 1), torch.ones(4, 3), torch.tensor([[2.0**24], [1.0], [1.0], [1.0]])
    wave = InProcessPipeline([network], Told(), microbatches=2).forward(inputs, targets)
    surrogate = NetworkLoss(Told(), targets, FactorCurvature())
    for value in (wave.loss, surrogate.at(torch.cat(wave.outputs)).value):
        assert value.dtype == torch.float64 and value == 2.0**22 + 0.75
