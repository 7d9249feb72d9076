"""However network and batch are cut, whatever is resumed: the same parameters."""

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surmin import CrossEntropy, SquaredError, SurrogateMinimizer
from surmin.curvature.factor import FactorCurvature
from surmin.curvature.output_curvature import Message
from surmin.options import OptionValues
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.cases import BY_NAME

ROUNDS, SAMPLES = 5, 24
CUTS = [(1, 3), (2, 8), (4, 1)]  # stages and micro-batches
VARIANTS: dict[str, OptionValues] = {
    "default": {},
    "whole batch": {"curvature_fraction": 1},
    "random columns": {"rank": 2, "preconditioner": None},
    "several dampings": {"damping_candidates": (0.1, 1.0, 3.0)},
    "scalar": {"curvature": "scalar", "power_steps": 8},
    "sample": {"curvature": "sample", "delta_relative": 1.0, "power_steps": 8},
    "lanczos": {"curvature": "scalar", "eigenvalue": "lanczos", "power_steps": 4},
    "paper": {"curvature": "scalar", "adapt_damping": False, "damping": 0.0, "power_steps": 8},
    "cubic": {"cubic": 0.5},
    "nonlinear": {"local": "nonlinear", "solver": "gauss-newton", "inner_steps": 2},
}


def train(
    name: str, options: OptionValues, *, stages: int = 1, microbatches: int = 1, rounds: int = ROUNDS
) -> dict[str, Tensor]:
    case = BY_NAME[name]
    network, batch = case.network(), case.batch(samples=SAMPLES)
    sm = SurrogateMinimizer(partition(network, stages), case.loss, microbatches=microbatches, **options)
    for _ in range(rounds):
        sm.step(*batch)
    return dict(network.state_dict())


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stages_and_microbatches_give_equal_parameters(variant: str) -> None:
    options = VARIANTS[variant]
    whole = train("tanh", options)
    start = BY_NAME["tanh"].network().state_dict()
    assert max((whole[name] - value).abs().max() for name, value in start.items()) > 1e-3
    for stages, microbatches in CUTS:
        assert_same(whole, train("tanh", options, stages=stages, microbatches=microbatches), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_other_cut_gives_equal_parameters(variant: str) -> None:
    options = VARIANTS[variant]
    whole = train("tanh", options)
    for stages, microbatches in [cut for cut in product((1, 2, 4), (1, 3, 8)) if cut not in CUTS]:
        assert_same(whole, train("tanh", options, stages=stages, microbatches=microbatches), 1e-9)


@pytest.mark.parametrize("name", ["attention", "convolution", "embedding", "positions"])
@pytest.mark.parametrize("variant", ["default", "sample"])
def test_on_other_networks_too(name: str, variant: str) -> None:
    options = VARIANTS[variant]
    if variant == "sample":
        options = {**options, "power_steps": 5}
    whole = train(name, options, rounds=2)
    assert_same(whole, train(name, options, stages=2, microbatches=4, rounds=2), 1e-8)


# LAPACK's eigenvalues of small matrices differ in the last bit with the place in memory, so Lanczos is left out
BITWISE = [variant for variant in VARIANTS if variant != "lanczos"]


@pytest.mark.parametrize("variant", ["random columns", "scalar"])
def test_the_same_seed_gives_the_same_bits(variant: str) -> None:
    left, right = train("tanh", VARIANTS[variant]), train("tanh", VARIANTS[variant])
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_another_seed_draws_other_rows() -> None:
    left, right = train("tanh", {"seed": 0}), train("tanh", {"seed": 1})
    assert not torch.equal(left["0.weight"], right["0.weight"])


def test_every_round_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    plain = FactorCurvature.top

    def top(self: FactorCurvature, *arguments: Any) -> list[Message]:
        seeds.append(arguments[-1])
        return plain(self, *arguments)

    monkeypatch.setattr(FactorCurvature, "top", top)
    train("tanh", {}, rounds=4)
    assert len(set(seeds)) == 4


def test_nothing_is_drawn_from_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for variant in ("random columns", "scalar", "nonlinear"):
        train("tanh", VARIANTS[variant], rounds=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("variant", BITWISE)
def test_a_resumed_run_continues_bit_for_bit(variant: str) -> None:
    case, options = BY_NAME["tanh"], VARIANTS[variant]
    batch = case.batch(samples=SAMPLES)
    network = case.network()
    sm = SurrogateMinimizer(partition(network, 2), case.loss, **options)
    for _ in range(3):
        sm.step(*batch)
    saved = {name: value.clone() for name, value in network.state_dict().items()}, dict(sm.state_dict())
    expected = [sm.step(*batch) for _ in range(3)]
    other = case.network(seed=9)
    other.load_state_dict(saved[0])
    resumed = SurrogateMinimizer(partition(other, 2), case.loss, **options)
    resumed.load_state_dict(saved[1])
    found = [resumed.step(*batch) for _ in range(3)]
    for left, right in zip(expected, found, strict=True):
        assert _numbers(left) == _numbers(right)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


def _numbers(report: object) -> list[str]:
    names = (
        "loss",
        "new_loss",
        "predicted_decrease",
        "reduction_ratio",
        "damping",
        "accepted",
        "tries",
        "gradient_norm",
    )
    return [repr(getattr(report, name)) for name in names]


BAD_STATES: dict[str, object] = {
    "foreign": {"step": 1, "exp_avg": 2, "lr": 3, "betas": 4},
    "round": {"round": -1},
    "damping": {"damping": float("nan")},
    "negative damping": {"damping": -1.0},
    "share": {"inflation_share": 0.0},
    "large share": {"inflation_share": 1.5},
    "seed": {"seed": 7},
    "a round that is no whole number": {"round": 1.5},
    "words for numbers": {"damping": "0.1"},
    "no damping to adapt": {"damping": 0.0},
    "truths for numbers": {"damping": True},
    "a truth for a round": {"round": True},
    "a last step that is a list": {"previous_step": [torch.zeros(2)]},
    "a last step of numbers": {"previous_step": {"0.weight": 1.0, "0.bias": 2.0}},
    "a last step of another network": {"previous_step": {"0.weight": torch.zeros(2, 2)}},
}


@pytest.mark.parametrize("bad", BAD_STATES.values(), ids=BAD_STATES.keys())
def test_a_foreign_state_is_refused_and_changes_nothing(bad: dict[str, object]) -> None:
    sm = SurrogateMinimizer([nn.Linear(2, 2)], BY_NAME["tanh"].loss)
    before = sm.state_dict()
    state = {**before, **bad}
    with pytest.raises(ValueError, match="state"):
        sm.load_state_dict(state)
    assert sm.state_dict() == before


def test_a_fixed_damping_is_not_changed_by_a_state() -> None:
    loss = BY_NAME["tanh"].loss
    adapted, fixed = SurrogateMinimizer([nn.Linear(2, 2)], loss), SurrogateMinimizer.paper([nn.Linear(2, 2)], loss)
    with pytest.raises(ValueError, match="has fixed at 0"):
        fixed.load_state_dict(adapted.state_dict())
    with pytest.raises(ValueError, match="cannot adapt"):
        adapted.load_state_dict(fixed.state_dict())


def test_a_share_of_the_inflation_is_not_taken_over_by_what_cannot_adapt_it() -> None:
    loss = BY_NAME["tanh"].loss
    state = SurrogateMinimizer([nn.Linear(2, 2)], loss).state_dict() | {"inflation_share": 0.4}
    fixed = SurrogateMinimizer([nn.Linear(2, 2)], loss, adapt_decoupling=False)
    with pytest.raises(ValueError, match=r"0.4 of the inflation, which this minimizer cannot adapt"):
        fixed.load_state_dict(state)
    assert fixed.state_dict()["inflation_share"] == 1


def test_a_last_step_is_not_kept_where_no_momentum_uses_it() -> None:
    case = BY_NAME["tanh"]
    sm = SurrogateMinimizer([case.network()], case.loss)
    assert sm.step(*case.batch()).accepted and sm.state_dict()["previous_step"] is not None
    other = SurrogateMinimizer(sm.pipeline, momentum_candidates=(0.0,))
    other.load_state_dict(sm.state_dict())
    assert other.state_dict()["previous_step"] is None


@pytest.mark.parametrize("leading", [[], [nn.Flatten()]], ids=["linear first", "flattened first"])
@pytest.mark.parametrize("preset", ["compute", "trips"])
def test_a_copy_goes_on_like_the_original(preset: str, leading: list[nn.Module]) -> None:
    case = BY_NAME["tanh"]
    inputs, targets = case.batch(samples=SAMPLES)
    batch = inputs.unsqueeze(1) if leading else inputs, targets
    sm = SurrogateMinimizer([nn.Sequential(*leading, *case.network())], case.loss, preset=preset)
    sm.step(*batch)
    other = copy.deepcopy(sm)
    assert other.step(*batch).new_loss == sm.step(*batch).new_loss


def test_a_pipeline_s_loss_is_not_replaced_silently() -> None:
    pipeline = InProcessPipeline([nn.Linear(2, 2)], CrossEntropy())
    with pytest.raises(ValueError, match="leave loss and microbatches out"):
        SurrogateMinimizer(pipeline, CrossEntropy())
    with pytest.raises(ValueError, match="leave loss and microbatches out"):
        SurrogateMinimizer(pipeline, microbatches=2)


class Tenfold(nn.Sequential):
    """A `Sequential` that computes something else than one."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 10 * super().forward(inputs)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    network.register_forward_hook(lambda _module, _inputs, output: 10 * output)
    return network


def with_a_forward_of_its_own() -> nn.Module:
    layer = nn.Linear(4, 3)
    plain = layer.forward
    layer.forward = lambda inputs: 10 * plain(inputs)  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    "make", [lambda: Tenfold(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), hooked, with_a_forward_of_its_own]
)
def test_a_module_is_trained_as_it_computes(make: Callable[[], nn.Module]) -> None:
    """Also a single one; the first step's loss and prediction are those of the module itself."""
    torch.manual_seed(0)
    network, inputs, targets = make().double(), torch.randn(30, 4).double() / 10, torch.randn(30, 3).double()
    loss = float(SquaredError().sample_losses(network(inputs).detach(), targets).mean())
    report = SurrogateMinimizer(network, SquaredError(), curvature_fraction=1.0, blocks="stage").step(inputs, targets)
    assert report.loss == pytest.approx(loss, rel=1e-12)
    assert report.reduction_ratio > 0.5


def test_a_state_with_missing_keys_is_refused() -> None:
    sm = SurrogateMinimizer([nn.Linear(2, 2)], BY_NAME["tanh"].loss)
    with pytest.raises(ValueError, match="not the state of a SurrogateMinimizer"):
        sm.load_state_dict({"round": 3})


def test_a_pipeline_may_be_given_in_place_of_the_stages() -> None:
    case = BY_NAME["tanh"]
    network, batch = case.network(), case.batch(samples=SAMPLES)
    sm = SurrogateMinimizer(InProcessPipeline(partition(network, 2), case.loss, microbatches=3))
    for _ in range(ROUNDS):
        sm.step(*batch)
    assert_same(train("tanh", {}), dict(network.state_dict()), 1e-9)


def test_mini_batches_train_and_reuse_nothing() -> None:
    case = BY_NAME["relu"]
    network, (inputs, targets) = case.network(), case.batch(samples=SAMPLES)
    sm = SurrogateMinimizer([network], case.loss, curvature_fraction=1)
    losses = []
    for epoch in range(15):
        for rows in torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch)).chunk(2):
            report = sm.step(inputs[rows], targets[rows])
            assert report.forward_waves == 1 + report.tries
            losses.append(report.loss)
    assert sum(losses[-2:]) < 0.85 * sum(losses[:2])
