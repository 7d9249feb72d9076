"""Stages that solve one after the other: every one at the activations that the moved stages below it send."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from surmin import CrossEntropy, SquaredError, SurrogateMinimizer
from surmin.curvature.factor import FactorCurvature
from surmin.solvers.gauss_newton_descent import GaussNewtonDescent
from surmin.surrogates.nonlinear import nonlinear_local_loss
from surmin.surrogates.output_surrogate import NetworkLoss
from surmin.work import WorkMeter
from tests.cases import BY_NAME
from tests.oracles import reference_mean_loss
from tests.waves import block_expansions

DAMPING = 0.1


def linear_chain() -> tuple[list[nn.Module], tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages: list[nn.Module] = [nn.Linear(*shape).double() for shape in ((4, 3), (3, 3), (3, 2))]
    draw = [torch.randn(7, width, generator=generator, dtype=torch.float64) for width in (4, 2)]
    return stages, (draw[0], draw[1])


def test_on_a_linear_network_every_stage_takes_its_exact_minimum() -> None:
    """With squared error the loss is quadratic in each stage's parameters: one Newton step each, in order."""
    stages, (inputs, targets) = linear_chain()
    network = nn.Sequential(*stages)
    parameters = {name: value.detach().clone() for name, value in network.named_parameters()}
    for place in range(3):
        names = [f"{place}.weight", f"{place}.bias"]
        shapes = [parameters[name].shape for name in names]
        sizes = [shape.numel() for shape in shapes]
        kept = torch.cat([parameters[name].reshape(-1) for name in names])

        def loss(flat: Tensor, names=names, shapes=shapes, sizes=sizes, kept=kept) -> Tensor:
            pieces = [piece.view(shape) for piece, shape in zip(flat.split(sizes), shapes, strict=True)]
            output = functional_call(network, {**parameters, **dict(zip(names, pieces, strict=True))}, inputs)
            half = 0.5 * (output - targets).square().flatten(1).sum(1).mean()
            return half + 0.5 * DAMPING * (flat - kept).square().sum()

        leaf = kept.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        best = kept - torch.linalg.solve(hessian(loss)(kept), gradient)
        for name, piece, shape in zip(names, best.split(sizes), shapes, strict=True):
            parameters[name] = piece.view(shape)
    sm = SurrogateMinimizer(
        stages, SquaredError(), preset="trips", damping=DAMPING, damping_candidates=(1.0,), inner_steps=12,
        inner_tolerance=0.0,
    )  # fmt: skip
    assert sm.step(inputs, targets).accepted
    for name, value in network.named_parameters():
        torch.testing.assert_close(value.detach(), parameters[name], rtol=0, atol=1e-8)


def test_on_a_linear_network_the_decreases_of_the_stages_add_up_to_that_of_the_loss() -> None:
    """Every local loss is the loss, from where the stages below have moved the input."""
    stages, (inputs, targets) = linear_chain()
    network = nn.Sequential(*stages)
    before = reference_mean_loss(SquaredError(), network(inputs), targets)
    slopes = torch.autograd.grad(before, list(network.parameters()))
    sm = SurrogateMinimizer(stages, SquaredError(), preset="trips", damping=DAMPING, damping_candidates=(1.0, 0.3))
    report = sm.step(inputs, targets)
    assert report.accepted
    after = reference_mean_loss(SquaredError(), network(inputs), targets)
    assert report.predicted_decrease == pytest.approx((before - after).item(), rel=1e-9)
    assert report.reduction_ratio == pytest.approx(1, rel=1e-9)
    assert report.gradient_norm == pytest.approx(torch.cat([own.flatten() for own in slopes]).norm().item(), rel=1e-9)


@pytest.mark.parametrize("solver", ["gauss-newton", "lbfgs", "adam"])
@pytest.mark.parametrize("name", ["relu", "tanh", "convolution", "embedding", "attention", "frozen"])
def test_the_new_loss_is_that_at_the_new_parameters(name: str, solver: str) -> None:
    case = BY_NAME[name]
    network = case.network()
    inputs, targets = case.batch()
    stages = [nn.Sequential(*list(network)[:2]), nn.Sequential(*list(network)[2:])]
    sm = SurrogateMinimizer(stages, case.loss, preset="trips", solver=solver, inner_steps=3, microbatches=3)
    reports = [sm.step(inputs, targets) for _ in range(3)]
    assert any(report.accepted for report in reports)
    loss = reference_mean_loss(case.loss, network(inputs), targets).item()
    last = reports[-1]
    assert (last.new_loss if last.accepted else last.loss) == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("order", [(0.1, 1.0), (1.0, 0.1)])
def test_candidates_continue_from_the_largest_damping_to_the_smallest(order: tuple[float, float]) -> None:
    """A network of one stage, where the local loss is the loss: one step at λ, then one from there at λ/10."""
    case = BY_NAME["tanh"]
    inputs, targets = case.batch()

    def after_a_step(**options: Any) -> tuple[Tensor, SurrogateMinimizer, float]:
        network = case.network()
        sm = SurrogateMinimizer(
            [network], case.loss, preset="trips", inner_steps=1, inner_fraction=1.0, damping=DAMPING, **options
        )
        report = sm.step(inputs, targets)
        assert report.accepted
        return torch.cat([value.detach().reshape(-1) for value in network.parameters()]), sm, report.new_loss

    both, sm, loss = after_a_step(damping_candidates=order)
    large, _, large_loss = after_a_step(damping_candidates=(1.0,))
    _, _, small_loss = after_a_step(damping_candidates=(0.1,))
    assert loss < min(large_loss, small_loss)
    assert sm.damping <= 0.1 * DAMPING
    curvature = FactorCurvature(fraction=1)
    (expansion,) = block_expansions([case.network()], case, (inputs, targets), curvature, blocks="stage")
    top = NetworkLoss(case.loss, targets, curvature)
    undamped = nonlinear_local_loss(expansion.block, expansion.tapes, top, WorkMeter(), expansion.kind)
    local = undamped.damped(0.1 * DAMPING)
    origin = local.block.vector()
    with torch.no_grad():
        continued = origin + GaussNewtonDescent(1).solve(local, large - origin).step
    torch.testing.assert_close(both, continued, rtol=1e-9, atol=1e-12)


def test_a_stage_without_parameters_hands_on_what_comes() -> None:
    torch.manual_seed(0)
    stages: list[nn.Module] = [nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Identity()]
    inputs, targets = torch.randn(12, 2, 3), torch.randint(3, (12,))
    sm = SurrogateMinimizer(stages, CrossEntropy(), preset="trips")
    reports = [sm.step(inputs, targets) for _ in range(6)]
    assert reports[-1].new_loss < 0.5 * reports[0].loss


def test_a_candidate_that_overflows_is_left_and_the_network_stays_whole() -> None:
    """The loss starts beyond all measure; stages that no damping of the first tries keeps finite are tried again."""

    class Cubed(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return state**3

    torch.manual_seed(0)
    stages: list[nn.Module] = [
        nn.Sequential(nn.Linear(6, 8), Cubed(), nn.Linear(8, 8), Cubed()),
        nn.Sequential(nn.Linear(8, 8), Cubed(), nn.Linear(8, 3)),
    ]
    for module in stages:
        for value in module.parameters():
            value.data.mul_(2)
    inputs, targets = torch.randn(20, 6), torch.randint(3, (20,))
    sm = SurrogateMinimizer(stages, CrossEntropy(), preset="trips", damping=1e-12, curvature_fraction=0.5)
    reports = [sm.step(inputs, targets) for _ in range(4)]
    assert any(report.accepted for report in reports)
    assert all(report.new_loss < report.loss for report in reports if report.accepted)
    assert all(torch.isfinite(value).all() for module in stages for value in module.parameters())
    assert any("non finite" in report.note or report.tries > 1 for report in reports)


@pytest.mark.parametrize("samples", [300, 500])
def test_inner_steps_are_modelled_on_all_of_a_small_batch_and_a_part_of_a_larger_one(samples: int) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 4, generator=generator)
    targets = torch.randint(3, (samples,), generator=generator)

    def loss_after_a_step(**options: Any) -> float:
        torch.manual_seed(0)
        stages: list[nn.Module] = [nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 3)]
        sm = SurrogateMinimizer(stages, CrossEntropy(), preset="trips", inner_steps=2, **options)
        return sm.step(inputs, targets).new_loss

    assert loss_after_a_step() == loss_after_a_step(inner_fraction=min(1.0, 400 / samples))
    assert (loss_after_a_step() == loss_after_a_step(inner_fraction=1.0)) == (samples <= 400)


class Asking(CrossEntropy):
    """Refuses to be called with gradients switched on."""

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return super().sample_losses(outputs, targets)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return super().gradient(outputs, targets)


@pytest.mark.parametrize("preset", ["compute", "links", "trips"])
def test_the_loss_is_called_with_gradients_off(preset: str) -> None:
    torch.manual_seed(0)
    stages: list[nn.Module] = [nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 3)]
    sm = SurrogateMinimizer(stages, Asking(), preset=preset)
    assert sm.step(torch.randn(12, 6), torch.randint(3, (12,))).accepted
