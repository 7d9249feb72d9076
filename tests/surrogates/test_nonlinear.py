"""Ψ_i(f_i(z̄, θ)) with its output curvature, against a direct dense computation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from surmin.curvature.factor import FactorCurvature
from surmin.replicas import OneReplica
from surmin.stages.partition import partition
from surmin.surrogates.nonlinear import NonlinearLocalLoss
from tests.cases import BY_NAME, CASES, Case
from tests.oracles import (
    DenseBlock,
    assert_is_map_of,
    gauss_newton,
    gradients,
    loss_hessians,
    points,
    reference_mean_loss,
    run,
    stage_blocks,
)
from tests.waves import block_expansions, local_loss_of

INFLATION, DAMPING = 3.0, 0.2
SPLITTABLE = [case for case in CASES if case.name != "logistic"]


def local_losses(
    case: Case, stages: int, curvature: FactorCurvature, microbatches: int = 1
) -> tuple[list[NonlinearLocalLoss], list[DenseBlock], tuple[Tensor, Tensor]]:
    parts, batch = partition(case.network(), stages), case.batch()
    found = block_expansions(parts, case, batch, curvature, blocks="stage", microbatches=microbatches, seed=2)
    count = curvature.sample_count(len(batch[0]))
    losses = [
        local_loss_of(expansion, count)
        .inflated(INFLATION).damped(DAMPING)
        for expansion in found
    ]  # fmt: skip
    return losses, stage_blocks(parts), batch


def output_curvatures(blocks: list[DenseBlock], index: int, case: Case, batch: tuple[Tensor, Tensor]) -> Tensor:
    """M_j of block `index`: Jᵀ ∇²ℓ J with J the Jacobian of everything above, (n, D, D)."""
    states = points(blocks, batch[0])
    above, z = blocks[index + 1 :], states[index + 1]
    top = loss_hessians(case.loss, states[-1], batch[1])
    if not above:
        return top
    result = []
    for j in range(len(z)):
        j_z = jacobian(
            lambda row: run(above, row.view(1, *z.shape[1:]), [b.vector() for b in above]).flatten(), z[j].flatten()
        )
        result.append(j_z.t() @ top[j] @ j_z)
    return torch.stack(result)


def direct(
    blocks: list[DenseBlock], index: int, case: Case, batch: tuple[Tensor, Tensor], step: Tensor
) -> tuple[Tensor, Tensor]:
    """L(d) and its gradient, written out."""
    n, block, states = len(batch[0]), blocks[index], points(blocks, batch[0])
    curvatures = output_curvatures(blocks, index, case, batch)
    z = states[index + 1].clone().requires_grad_()
    above = blocks[index + 1 :]
    output = run(above, z, [b.vector() for b in above])
    (cotangent,) = torch.autograd.grad(reference_mean_loss(case.loss, output, batch[1]), z)
    leaf = step.clone().requires_grad_()
    change = (block(states[index], block.vector() + leaf) - states[index + 1]).flatten(1)
    bend = torch.einsum("nd,nde,ne->", change, curvatures, change) / n
    value = (cotangent.flatten(1) * change).sum() + INFLATION / 2 * bend + DAMPING / 2 * leaf @ leaf
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("case", SPLITTABLE, ids=str)
def test_value_and_gradient_against_the_dense_surrogate(case: Case, microbatches: int) -> None:
    losses, blocks, batch = local_losses(case, 2, FactorCurvature(fraction=1), microbatches)
    for index, loss in enumerate(losses):
        step = torch.randn(blocks[index].size, dtype=torch.float64, generator=torch.Generator().manual_seed(index))
        value, gradient = direct(blocks, index, case, batch, 0.3 * step)
        found_value, found_gradient = loss.value_and_gradient(0.3 * step)
        torch.testing.assert_close(found_value, value, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found_gradient, gradient, rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(loss(0.3 * step), value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fraction", [1, 0.5])
@pytest.mark.parametrize("case", SPLITTABLE, ids=str)
def test_at_the_expansion_point_it_touches_the_loss(case: Case, fraction: float) -> None:
    """Value zero and gradient ∂h/∂θ_i, whatever carries the curvature."""
    losses, blocks, batch = local_losses(case, 2, FactorCurvature(fraction=fraction))
    for loss, exact in zip(losses, gradients(blocks, case, *batch), strict=True):
        value, gradient = loss.value_and_gradient(torch.zeros_like(exact))
        assert value == 0
        torch.testing.assert_close(gradient, exact, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", ["tanh", "convolution", "attention"])
def test_the_linearized_curvature_is_the_block_gauss_newton_matrix(name: str) -> None:
    """At the expansion point it is G_i; elsewhere J moves and M stays."""
    case = BY_NAME[name]
    losses, blocks, batch = local_losses(case, 2, FactorCurvature(fraction=1))
    exact = gauss_newton(blocks, case, *batch)
    for index, loss in enumerate(losses):
        size = blocks[index].size
        here = loss.linearized(loss.at(torch.zeros(size, dtype=torch.float64)))
        assert_is_map_of(exact[index][index], here.product, rtol=1e-9, atol=1e-12)
    step = torch.randn(blocks[1].size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    there = losses[1].linearized(losses[1].at(step))
    curvatures = output_curvatures(blocks, 1, case, batch)
    z = points(blocks, batch[0])[1]
    moved = jacobian(lambda theta: blocks[1](z, theta).flatten(1), blocks[1].vector() + step)
    expected = sum(moved[j].t() @ curvatures[j] @ moved[j] for j in range(len(z))) / len(z)
    assert_is_map_of(expected, there.product, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("carrying", [1, 0.5])
@pytest.mark.parametrize("name", ["tanh", "convolution"])
def test_a_part_of_the_samples_gives_the_same_matrix_on_average(name: str, carrying: float) -> None:
    losses, blocks, _ = local_losses(BY_NAME[name], 2, FactorCurvature(fraction=carrying))
    loss, size = losses[1], blocks[1].size
    point = loss.at(torch.zeros(size, dtype=torch.float64))
    direction = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = loss.linearized(point).product(direction)
    parts = torch.stack([loss.linearized(point, 0.5, number).product(direction) for number in range(400)])
    assert (parts - parts[0]).norm(dim=1).max() > 0.01 * exact.norm()
    assert (parts.mean(0) - exact).norm() < 0.05 * exact.norm()
    torch.testing.assert_close(loss.linearized(point, 0.5, 7).product(direction), parts[7], rtol=0, atol=0)


class Second(OneReplica):
    def own_seed(self, seed: int) -> int:
        return seed + 1


def test_every_replica_draws_a_part_of_its_own() -> None:
    losses, blocks, _ = local_losses(BY_NAME["tanh"], 2, FactorCurvature(fraction=1))
    point = losses[1].at(torch.zeros(blocks[1].size, dtype=torch.float64))
    direction = torch.ones(blocks[1].size, dtype=torch.float64)
    first, second = (
        torch.stack([loss.linearized(point, 0.5, number).product(direction) for number in range(5)])
        for loss in (losses[1], replace(losses[1], replicas=Second()))
    )
    assert not torch.allclose(first, second)


def test_on_a_fraction_of_the_batch_only_its_rows_bend() -> None:
    """The gradient part runs over all samples, the curvature over the drawn ones with their weights."""
    case = BY_NAME["tanh"]
    losses, blocks, batch = local_losses(case, 2, FactorCurvature(fraction=0.5))
    loss, block = losses[1], blocks[1]
    columns, rows = loss.surrogate.columns(loss.inputs, 1.0, seed=0)
    z = points(blocks, batch[0])
    step = 0.3 * torch.randn(block.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    output = z[2].requires_grad_()
    (cotangent,) = torch.autograd.grad(reference_mean_loss(case.loss, output, batch[1]), output)
    for drawn in (rows, torch.tensor([1, 1, 4])):  # a very curved sample can come twice
        leaf = step.clone().requires_grad_()
        change = block(z[1], block.vector() + leaf) - output.detach()
        bend = sum((columns[:, k] @ change[row]).square().sum() for k, row in enumerate(drawn)) / 3
        expected = (cotangent * change).sum() + INFLATION / 2 * bend + DAMPING / 2 * leaf @ leaf
        surrogate = replace(loss.surrogate, message=(columns, drawn))
        value, gradient = replace(loss, surrogate=surrogate).value_and_gradient(step)
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])
