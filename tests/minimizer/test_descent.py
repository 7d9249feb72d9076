"""Whatever the options, an accepted full-batch round lowers the loss, and a rejected one changes nothing."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surmin import CrossEntropy, GradientOracle, SquaredError, StepReport, SurrogateMinimizer
from surmin.options import OptionValues
from surmin.stages.partition import partition
from tests.cases import BY_NAME, CASES, Case
from tests.device import here

VARIANTS: dict[str, Any] = {
    "default": {},
    "whole batch": {"curvature_fraction": 1},
    "stage blocks": {"blocks": "stage"},
    "random columns": {"rank": 2},
    "no preconditioner": {"preconditioner": None, "inner_steps": 5},
    "scalar": {"curvature": "scalar", "inner_steps": 5},
    "sample": {"curvature": "sample", "delta_relative": 1.0, "inner_steps": 5},
    "gradient descent": {"solver": "gd", "inner_learning_rate": 0.02, "inner_steps": 5},
    "armijo": {"solver": "gd-armijo", "inner_steps": 5},
    "cubic": {"cubic": 0.5, "inner_steps": 5},
    "cubic gradient descent": {"cubic": 0.5, "solver": "cubic-gd", "inner_steps": 5},
    "several dampings": {"damping_candidates": (0.1, 1.0, 3.0)},
    "nonlinear": {"local": "nonlinear", "blocks": "stage", "inner_steps": 4},
    "nonlinear layers": {"local": "nonlinear", "inner_steps": 4},
    "nonlinear gauss-newton": {"local": "nonlinear", "blocks": "stage", "solver": "gauss-newton", "inner_steps": 2},
    "sequential": {"preset": "trips", "inner_steps": 4},
    "sequential drawn": {"preset": "trips", "inner_fraction": 0.3, "inner_steps": 4},
    "sequential l-bfgs": {"preset": "trips", "solver": "lbfgs", "curvature_fraction": 0.5, "inner_steps": 4},
    "nonlinear adam": {
        "local": "nonlinear", "blocks": "stage", "solver": "adam", "inner_steps": 4, "inner_learning_rate": 0.01,
    },
}  # fmt: skip


def snapshot(network: nn.Module) -> list[Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def assert_descends(
    sm: SurrogateMinimizer, network: nn.Module, batch: tuple[Tensor, Tensor], rounds: int
) -> list[StepReport]:
    reports: list[StepReport] = []
    for _ in range(rounds):
        kept = snapshot(network)
        report = sm.step(*batch)
        if report.accepted:
            assert report.new_loss < report.loss
        else:
            assert "rejected" in report.note
            assert all(torch.equal(now, then) for now, then in zip(snapshot(network), kept, strict=True))
        if reports and reports[-1].accepted:
            assert report.loss == reports[-1].new_loss
        reports.append(report)
    assert any(report.accepted for report in reports)
    return reports


EVERYWHERE = ("default", "scalar", "nonlinear", "sequential")
EVERYTHING = ("relu", "embedding", "frozen")


@pytest.mark.parametrize(
    ("case", "variant"),
    [(case, name) for case in CASES for name in VARIANTS if name in EVERYWHERE or case.name in EVERYTHING],
    ids=str,
)
def test_every_accepted_round_lowers_the_loss(case: Case, variant: str) -> None:
    network = case.network()
    frozen = [p.clone() for p in network.parameters() if not p.requires_grad]
    sm = SurrogateMinimizer(partition(network, 2), case.loss, **VARIANTS[variant])
    assert_descends(sm, network, case.batch(), 3)
    kept = [p for p in network.parameters() if not p.requires_grad]
    assert all(torch.equal(now, then) for now, then in zip(kept, frozen, strict=True))
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("preset", ["compute", "trips"])
def test_presets_train_far(preset: str) -> None:
    case = BY_NAME["tanh"]
    network = case.network()
    sm = SurrogateMinimizer(partition(network, 2), case.loss, preset=preset)
    rounds = 15 if here().type == "cpu" else 30  # a GPU's generator draws other samples
    reports = assert_descends(sm, network, case.batch(), rounds)
    assert reports[-1].new_loss < 1e-2 * reports[0].loss


def test_the_preset_for_links_lowers_a_loss_that_cannot_vanish() -> None:
    """Sixty random labels on a tiny network; a seventh of the batch, at least a few samples, carries the curvature."""
    case = BY_NAME["tanh"]
    network = case.network()
    sm = SurrogateMinimizer(partition(network, 2), case.loss, preset="links")
    reports = assert_descends(sm, network, case.batch(samples=60), 15)
    assert reports[-1].new_loss < 0.7 * reports[0].loss


def test_momentum_that_failed_is_not_tried_again_in_the_same_round() -> None:
    """With it every retry would overshoot alike: the last step was long, and no damping makes it shorter."""
    case, network = BY_NAME["tanh"], BY_NAME["tanh"].network()
    sm = SurrogateMinimizer([network], case.loss, momentum_candidates=(0.9,))
    sm.step(*case.batch())
    state = sm.state_dict()
    state["previous_step"] = {name: 100 * step for name, step in state["previous_step"].items()}
    sm.load_state_dict(state)
    report = sm.step(*case.batch())
    assert report.accepted
    assert report.tries > 1


class Squeeze(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.squeeze(-1)


class Waves(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([inputs.sin(), inputs.cos()], -1)


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"preset": "links"}, {"preset": "trips"}, {"preset": "paper", "delta": 10.0},
        {"curvature": "sample", "eigenvalue": "lanczos"}, {"rank": 1, "blocks": "stage"},
    ],
    ids=str,
)  # fmt: skip
def test_a_single_number_a_sample_between_layers_and_stages(options: dict[str, Any], microbatches: int) -> None:
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(3, 1), Squeeze()).double(), nn.Sequential(Waves(), nn.Linear(2, 1)).double()]
    inputs = torch.randn(20, 3).double()
    sm = SurrogateMinimizer(stages, SquaredError(), microbatches=microbatches, **options)
    batch = inputs, inputs[:, :1] * inputs[:, 1:2]
    first, second = sm.step(*batch), sm.step(*batch)
    assert first.accepted and second.loss < first.loss


def wild(scale: float = 8.0) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= scale
    return network


def test_a_rejected_round_leaves_every_bit_and_raises_the_damping() -> None:
    case, network = BY_NAME["relu"], wild()
    sm = SurrogateMinimizer([network], case.loss, damping=1e-9, max_tries=1, adapt_decoupling=False)
    kept, damping = snapshot(network), sm.damping
    report = sm.step(*case.batch())
    assert not report.accepted and report.tries == 1
    assert "rejected" in report.note
    assert all(torch.equal(now, then) for now, then in zip(snapshot(network), kept, strict=True))
    assert sm.damping > damping
    assert_descends(sm, network, case.batch(), 60)


def test_after_a_rejected_round_every_candidate_is_above_those_that_failed() -> None:
    case, network = BY_NAME["relu"], wild()
    sm = SurrogateMinimizer([network], case.loss, damping=1e-9, max_tries=1, damping_candidates=(0.01, 0.1))
    dampings = [sm.damping]
    for _ in range(5):
        assert not sm.step(*case.batch()).accepted
        dampings.append(sm.damping)
    assert all(0.01 * after > 0.1 * before for before, after in pairwise(dampings)), "those that failed come again"


def test_tries_raise_the_damping_until_a_step_passes() -> None:
    case, network = BY_NAME["relu"], wild()
    sm = SurrogateMinimizer([network], case.loss, damping=1e-9, max_tries=60, adapt_decoupling=False)
    report = sm.step(*case.batch())
    assert report.accepted and report.tries > 1
    assert report.damping > 1e-9


def test_the_best_of_several_dampings_is_taken() -> None:
    """Each alone, then all in one wave: the winner is the one with the least loss of those that pass."""
    case, factors = BY_NAME["tanh"], (0.01, 1.0, 100.0)
    alone = []
    for factor in factors:
        network = case.network()
        options: OptionValues = {"damping": 0.1 * factor, "adapt_decoupling": False, "max_tries": 1}
        alone.append(SurrogateMinimizer([network], case.loss, **options).step(*case.batch()))
    together = SurrogateMinimizer(
        [case.network()], case.loss, damping=0.1, damping_candidates=factors, adapt_decoupling=False
    ).step(*case.batch())
    best = min(alone, key=lambda report: (not report.accepted, report.new_loss))
    assert best.accepted
    assert len({report.new_loss for report in alone}) == 3
    assert together.new_loss == best.new_loss
    assert together.damping == pytest.approx(best.damping)


def test_a_rejection_after_loose_rounds_brings_the_inflation_back_at_once() -> None:
    """Shares of κ below 1/m change nothing, so they must not pile up."""
    case = BY_NAME["tanh"]
    sm = SurrogateMinimizer([case.network()], case.loss, curvature_fraction=1)
    damping = sm._damping
    for _ in range(50):
        damping = damping.after_acceptance(2.0)
    sm._damping = damping
    sm.step(*case.batch())
    assert sm._damping.after_rejection(0.0).inflation_share * 4 > 1


def test_momentum_adds_a_share_of_the_last_step() -> None:
    case = BY_NAME["tanh"]
    steps: dict[float, list[Tensor]] = {}
    for momentum in (0.0, 0.5):
        network = case.network()
        options: OptionValues = {"momentum_candidates": (momentum,), "curvature_fraction": 1, "damping": 1.0}
        sm = SurrogateMinimizer([network], case.loss, adapt_decoupling=False, **options)
        points = [network[0].weight.detach().clone()]
        for _ in range(2):
            assert sm.step(*case.batch()).tries == 1
            points.append(network[0].weight.detach().clone())
        steps[momentum] = [points[1] - points[0], points[2] - points[1]]
    assert torch.equal(steps[0.0][0], steps[0.5][0])
    torch.testing.assert_close(steps[0.5][1], steps[0.0][1] + 0.5 * steps[0.0][0], rtol=1e-9, atol=1e-13)


class RoundedToZero(CrossEntropy):
    """Cross-entropy in float32 as most compute it: exactly zero for large logits, where its gradient is not."""

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -outputs.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("options", [{}, {"preset": "trips"}], ids=str)
def test_where_the_loss_can_fall_no_more_a_round_is_one_try(options: OptionValues) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    batch = torch.randn(6, 4), torch.arange(6) % 2
    sm = SurrogateMinimizer(partition(model, 2), RoundedToZero(), **options)
    assert any(sm.step(*batch).new_loss == 0 for _ in range(100))
    before, damping = [parameter.clone() for parameter in model.parameters()], sm.damping
    for _ in range(3):
        report = sm.step(*batch)
        assert (report.accepted, report.tries, report.new_loss) == (False, 1, 0) and report.gradient_norm > 0
    assert sm.damping == damping
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("options", [{}, {"preset": "trips"}, {"momentum_candidates": (0.0,)}], ids=str)
def test_damping_under_which_steps_vanish_comes_down_again(options: OptionValues) -> None:
    """A batch that drove λ up must not end the training on all that follow."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    batch = torch.randn(30, 4), torch.arange(30) % 2
    sm = SurrogateMinimizer(partition(model, 2), CrossEntropy(), **options)
    damping = sm.damping
    sm.load_state_dict({**sm.state_dict(), "damping": 1e12})
    first = sm.step(*batch)
    assert not first.accepted and first.new_loss == first.loss
    assert sm.damping == damping
    assert sm.step(*batch).accepted


def test_a_stationary_point_is_left_alone() -> None:
    case = BY_NAME["softplus"]
    network = case.network()
    inputs, _ = case.batch()
    kept = snapshot(network)
    report = SurrogateMinimizer([network], case.loss).step(inputs, network(inputs).detach())
    assert not report.accepted and report.gradient_norm == 0
    assert all(torch.equal(now, then) for now, then in zip(snapshot(network), kept, strict=True))


@pytest.mark.parametrize("curvature", ["sample", "scalar"])
def test_where_all_curvature_is_negative_damping_rises_until_the_loss_falls(curvature: Any) -> None:
    """A saturated unit whose target is far on its other side: the curvature along its gradient is -7.1."""
    network = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].bias.fill_(0.5)
    batch = torch.ones(4, 1), torch.full((4, 1), -10.0)
    minimizer = SurrogateMinimizer(network, SquaredError(), curvature=curvature)
    reports = [minimizer.step(*batch) for _ in range(4)]
    assert reports[0].accepted and reports[0].damping > 7.1
    assert reports[-1].new_loss < 0.9 * reports[0].loss


def test_damping_rises_over_rounds_where_one_is_not_enough() -> None:
    """The curvature is about minus three thousand; eight tries of a round take λ from 0.01 to 164."""
    network = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].bias.fill_(0.5)
    batch = torch.ones(4, 1), torch.full((4, 1), -1e4)
    minimizer = SurrogateMinimizer(network, SquaredError(), curvature="scalar", damping=0.01)
    reports = [minimizer.step(*batch) for _ in range(6)]
    assert not reports[0].accepted and reports[0].note == "rejected, negative curvature"
    assert any(report.accepted and report.damping > 164 for report in reports)


def test_a_gradient_oracle_takes_the_same_steps_as_the_loss_it_describes() -> None:
    case = BY_NAME["softplus"]
    options: OptionValues = {"adapt_damping": False, "damping": 0.5, "curvature_fraction": 1}
    left, right = case.network(), case.network()
    oracle = GradientOracle(lambda z, y: z - y, 1.0)
    told, unknown = SurrogateMinimizer([left], case.loss, **options), SurrogateMinimizer([right], oracle, **options)
    for _ in range(4):
        told.step(*case.batch())
        report = unknown.step(*case.batch())
    assert report.accepted and report.loss != report.loss
    for name, value in left.state_dict().items():
        torch.testing.assert_close(right.state_dict()[name], value)


@pytest.mark.parametrize("curvature", ["scalar", "factor"])
def test_a_gradient_oracle_alone_lowers_a_loss_it_never_tells(curvature: str) -> None:
    """Algorithm 1 as in reinforcement learning: only a gradient and a constant are known."""
    case = BY_NAME["softplus"]
    network, (inputs, targets) = case.network(), case.batch()
    weights = torch.tensor([1.0, 0.25], dtype=torch.float64)
    oracle = GradientOracle(lambda z, y: weights * (z - y), 1.0)

    def hidden() -> float:
        return (weights * (network(inputs) - targets).square()).sum().item()

    sm = SurrogateMinimizer([network], oracle, curvature=curvature, adapt_damping=False, damping=0.5)  # type: ignore[arg-type]
    losses = [hidden()]
    for _ in range(10):
        sm.step(inputs, targets)
        losses.append(hidden())
    assert losses[-1] < 0.7 * losses[0]


def test_a_gradient_oracle_cannot_be_tested_against() -> None:
    case = BY_NAME["softplus"]
    network = case.network()
    kept = snapshot(network)
    sm = SurrogateMinimizer([network], GradientOracle(lambda z, y: z - y, 1.0))
    with pytest.raises(ValueError, match="a gradient oracle has no loss value and needs adapt_damping=False"):
        sm.step(*case.batch())
    assert all(torch.equal(now, then) for now, then in zip(snapshot(network), kept, strict=True))


@pytest.mark.parametrize("options", [{}, {"curvature": "scalar"}, {"local": "nonlinear", "blocks": "stage"}], ids=str)
@pytest.mark.parametrize("kind", [nn.ReLU, nn.ELU])
def test_in_place_activations_train_like_the_others(kind: type[nn.Module], options: OptionValues) -> None:
    def make(inplace: bool) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 6), kind(inplace=inplace), kind(inplace=inplace), nn.Linear(6, 4), kind(inplace=inplace),
            nn.Linear(4, 3),
        ).double()  # fmt: skip

    batch = BY_NAME["relu"].batch()
    networks = [make(False), make(True)]
    for network in networks:
        sm = SurrogateMinimizer([network[:2], network[2:]], CrossEntropy(), **options)
        for _ in range(4):
            sm.step(*batch)
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_an_in_place_activation_on_the_network_s_input_leaves_the_data_alone() -> None:
    inputs, targets = torch.randn(6, 3), torch.randn(6, 2)
    kept = inputs.clone()
    SurrogateMinimizer([nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))], SquaredError()).step(inputs, targets)
    assert torch.equal(inputs, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_step_computes_in_the_parameters_dtype(dtype: torch.dtype) -> None:
    case = BY_NAME["tanh"]
    network = case.network(dtype)
    sm = SurrogateMinimizer(partition(network, 2), case.loss)
    assert_descends(sm, network, case.batch(dtype=dtype), 5)
    assert all(p.dtype == dtype for p in network.parameters())


def test_linear_layers_on_positions_may_come_first() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs, targets = torch.randn(8, 5, 3, dtype=torch.float64), torch.randn(8, 5, 2, dtype=torch.float64)
    assert_descends(SurrogateMinimizer([network], SquaredError()), network, (inputs, targets), 3)


@pytest.mark.parametrize("variant", ["default", "scalar", "nonlinear gauss-newton"])
def test_fused_attention_trains(variant: str) -> None:
    """Torch's fused kernels know neither forward mode nor second derivatives."""
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
    network = nn.Sequential(nn.Linear(3, 4), attention, nn.Linear(4, 2)).double()
    inputs, targets = torch.randn(6, 5, 3, dtype=torch.float64), torch.randn(6, 5, 2, dtype=torch.float64)
    sm = SurrogateMinimizer([network], SquaredError(), **VARIANTS[variant])
    assert_descends(sm, network, (inputs, targets), 2)


def test_a_micro_batch_without_sampled_rows() -> None:
    """Max pooling takes no empty batch, so none must be made."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)).double()
    inputs, labels = torch.randn(8, 1, 4, 4, dtype=torch.float64), torch.arange(8) % 3
    sm = SurrogateMinimizer([network], CrossEntropy(), microbatches=8)
    assert_descends(sm, network, (inputs, labels), 3)
