"""The networks beside the stages: where they begin, where they cannot be had, and their state."""

from typing import Any

import pytest
import torch
from torch import nn

from surmin import SquaredError
from surmin.methods.auxiliary_networks.auxiliary import Auxiliary
from surmin.methods.auxiliary_networks.heads import build_head, layout_of
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.replicas import ONE_REPLICA
from tests.device import here
from tests.experiments.runs.states import equal
from tests.methods.cases import largest_difference
from tests.methods.local_cases import case_of, initial_weights, make_method, make_stages

NAMES = ("dgl", "interlocking", "dni")
CUTS = (0, 2, 4, 7)


def test_initial_weights_are_those_of_seed_and_place() -> None:
    case = case_of("relu")
    inputs, _ = case.batch()

    def weights(cuts: tuple[int, ...], seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
        return initial_weights(make_method("dgl", make_stages(case, cuts), case, seed=seed), inputs)

    many, few = weights((0, 2, 4, 6, 7)), weights((0, 4, 7))
    assert many.keys() == {"0", "2", "4"} and few.keys() == {"0"}
    assert equal(weights((0, 2, 4, 6, 7)), many)
    assert equal(weights((0, 2, 6, 7))["0"], many["0"])
    assert not equal(weights((0, 2, 4, 6, 7), seed=1)["0"], many["0"])
    case = case_of("tanh")
    same_shapes = initial_weights(make_method("dgl", make_stages(case, (0, 2, 4, 7)), case), case.batch()[0])
    assert not equal(same_shapes["0"], same_shapes["2"])


def test_torch_s_own_random_numbers_stay_as_they_were() -> None:
    case = case_of("tanh")
    method = make_method("dni", make_stages(case, CUTS), case)
    before = torch.random.get_rng_state()
    method.step(*case.batch())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("state", "outputs", "layout"),
    [
        ((7,), (3,), "positions"),
        ((5, 7), (5, 3), "positions"),
        ((4, 5, 6), (4, 5, 3), "positions"),
        ((4, 5, 6), (3,), "image"),
        ((5, 7), (3,), "whole"),
        ((2, 2, 2, 2), (3,), "whole"),
    ],
)
def test_layouts(state: tuple[int, ...], outputs: tuple[int, ...], layout: str) -> None:
    assert layout_of(state, outputs) == layout
    head = build_head(state, outputs).to(here())
    assert head(torch.randn(6, *state)).shape == (6, *outputs)


def test_images_of_one_pixel() -> None:
    assert build_head((2, 1, 3), (4,)).to(here())(torch.randn(5, 2, 1, 3)).shape == (5, 4)


class Transposed(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.mT


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_puts_out_other_positions_is_refused_before_anything_changes(name: str) -> None:
    def make() -> list[nn.Module]:
        torch.manual_seed(0)
        return [
            nn.Linear(3, 4).double(),
            nn.Linear(4, 4).double(),
            nn.Sequential(Transposed(), nn.Linear(5, 2).double()),
        ]

    stages, start = make(), make()
    method = build_method(name, InProcessPipeline(stages, SquaredError()))
    batch = torch.randn(6, 5, 3, dtype=torch.float64), torch.randn(6, 4, 2, dtype=torch.float64)
    message = r"an auxiliary network needs .* samples of shape \[5, 4\] do not fit outputs of shape \[4, 2\]"
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{message}"):
            method.step(*batch)
    assert largest_difference(nn.Sequential(*stages), nn.Sequential(*start)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_stage_is_refused(name: str) -> None:
    stages = [nn.Linear(3, 3), nn.Sequential(), nn.Linear(3, 2)]
    with pytest.raises(ValueError, match="an auxiliary network needs a stage with layers"):
        build_method(name, InProcessPipeline(stages, SquaredError()))


def test_a_learning_rate_that_was_changed_is_saved() -> None:
    networks = [nn.Linear(2, 1) for _ in range(2)]
    optimizers = [torch.optim.Adam(network.parameters(), lr) for network, lr in zip(networks, (0.1, 0.2), strict=True)]
    first, second = (Auxiliary(*own, [2], ONE_REPLICA) for own in zip(networks, optimizers, strict=True))
    second.load_state_dict(first.state_dict())
    assert optimizers[1].param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_state_continues_exactly(name: str) -> None:
    """Also on other micro-batches, with batches that change, and before the first step."""
    case = case_of("relu")
    cuts = (0, 2, 4, 6, 7)
    whole, part, rest = (make_stages(case, cuts) for _ in range(3))
    batches = [case.batch(6, seed=1), case.batch(6, seed=2), case.batch(12, seed=3)] * 2
    uninterrupted = make_method(name, whole, case)
    for batch in batches:
        uninterrupted.step(*batch)
    first = make_method(name, part, case)
    first.load_state_dict(make_method(name, make_stages(case, cuts), case).state_dict())
    for batch in batches[:3]:
        first.step(*batch)
    state = first.state_dict()
    assert equal(first.state_dict(), state)
    second = make_method(name, rest, case, seed=5)
    nn.Sequential(*rest).load_state_dict(nn.Sequential(*part).state_dict())
    second.load_state_dict(state)
    for batch in batches[3:]:
        first.step(*batch)
        second.step(*batch)
    for stages, method in ((part, first), (rest, second)):
        assert largest_difference(nn.Sequential(*whole), nn.Sequential(*stages)) == 0
        assert equal(method.state_dict(), uninterrupted.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_a_network_cut_elsewhere_is_refused(name: str) -> None:
    case = case_of("relu")
    method = make_method(name, make_stages(case, (0, 2, 4, 6, 7)), case)
    method.step(*case.batch())
    other = make_method(name, make_stages(case, (0, 3, 5, 6, 7)), case)
    with pytest.raises(ValueError, match=r"none of them of layers 0 to 2|layer 3 to learn"):
        other.load_state_dict(method.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_another_method_is_refused(name: str) -> None:
    case = case_of("relu")
    method = make_method(name, make_stages(case, CUTS), case)
    foreign_states: list[dict[str, Any]] = [{"optimizer": {}}, {"length": 0.1}, {}]
    for foreign in foreign_states:
        with pytest.raises(ValueError, match="not the state of"):
            method.load_state_dict(foreign)
