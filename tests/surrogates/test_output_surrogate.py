"""Ψ = h of the last stage against automatic differentiation, for every loss."""

import pytest
import torch
from torch.autograd.functional import hessian

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.gauss_newton import weighted_sum
from surmin.surrogates.output_surrogate import NetworkLoss
from tests.cases import CASES, SAMPLES, Case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_network_s_own_loss(case: Case) -> None:
    inputs, targets = case.batch()
    with torch.no_grad():
        output = case.network()(inputs)
    surrogate = NetworkLoss(case.loss, targets, FactorCurvature(fraction=1.0)).inflated(3.0)

    def mean_loss(there: torch.Tensor) -> torch.Tensor:
        return case.loss.sample_losses(there.view_as(output), targets).mean()

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
