import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import balanced_bounds, partition
from tests.cases import CASES, Case


def run(stages: list[nn.Module], inputs: Tensor) -> Tensor:
    for stage in stages:
        inputs = stage(inputs)
    return inputs


@pytest.mark.parametrize("case", CASES, ids=str)
def test_stages_in_a_row_are_the_model_and_share_its_parameters(case: Case) -> None:
    network, (inputs, _) = case.network(), case.batch()
    trainable = sum(1 for module in network if any(p.requires_grad for p in module.parameters()))
    for count in range(1, trainable + 1):
        stages = partition(network, count)
        assert len(stages) == count
        assert torch.equal(run(stages, inputs), network(inputs))
        own = [id(parameter) for stage in stages for parameter in stage.parameters()]
        assert own == [id(parameter) for parameter in network.parameters()]
    with pytest.raises(ValueError, match=f"ask for 1 to {trainable}"):
        partition(network, trainable + 1)


@given(costs=st.lists(st.integers(0, 50), min_size=1, max_size=7), parts=st.integers(1, 7))
def test_bounds_are_the_best_of_all_cuts(costs: list[int], parts: int) -> None:
    parts = min(parts, len(costs))
    bounds = balanced_bounds(costs, parts)

    def cost(cut: tuple[int, ...]) -> int:
        return sum(sum(costs[start:stop]) ** 2 for start, stop in itertools.pairwise(cut))

    every = [(0, *inner, len(costs)) for inner in itertools.combinations(range(1, len(costs)), parts - 1)]
    assert tuple(bounds) in every
    assert cost(tuple(bounds)) == min(map(cost, every))


def test_parameters_are_spread_evenly() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 12))
    sizes = [sum(p.numel() for p in stage.parameters()) for stage in partition(network, 2)]
    assert sizes == [40, 60]


def test_time_is_spread_evenly() -> None:
    network = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3)), nn.Linear(8, 512), nn.Linear(512, 1024))
    network, inputs = network.cpu(), torch.randn(2000, 8, device="cpu")  # on a GPU small layers take equally long
    kept = inputs.clone()
    first, second = partition(network, 2, balance="time", sample_inputs=inputs)
    assert (len(first), len(second)) == (4, 1)
    assert torch.equal(inputs, kept)


def test_timing_does_not_change_the_sample_inputs() -> None:
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3), nn.Linear(3, 3))
    inputs = torch.randn(5, 3)
    kept = inputs.clone()
    partition(network, 2, balance="time", sample_inputs=inputs)
    assert torch.equal(inputs, kept)


def test_nested_sequentials_are_opened_and_custom_ones_kept_whole() -> None:
    class Residual(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs + super().forward(inputs)

    network = nn.Sequential(
        nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), nn.Linear(3, 3))), Residual(nn.Linear(3, 3), nn.Tanh())
    )
    kinds = [[type(module).__name__ for module in stage] for stage in partition(network, 3)]
    assert kinds == [["Linear", "Tanh"], ["Linear"], ["Residual"]]


def test_a_parameter_s_name_does_not_depend_on_the_cut() -> None:
    case = next(case for case in CASES if case.name == "parameter-free")
    network = case.network()
    names = [list(InProcessPipeline(partition(network, k), case.loss).parameters) for k in (1, 2)]
    assert names[0] == names[1] == ["2.weight", "2.bias", "5.weight", "5.bias"]


def test_what_cannot_be_cut_is_named_with_the_way_out() -> None:
    class Net(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"cannot cut a Net.*pass your own list of modules"):
        partition(Net(), 2)
    with pytest.raises(ValueError, match="0 trainable layers"):
        partition(nn.Sequential(), 1)
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="into 0 stages"):
        partition(network, 0)
    with pytest.raises(ValueError, match="unknown balance 'memory'"):
        partition(network, 2, balance="memory")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs sample_inputs"):
        partition(network, 2, balance="time")


def test_layers_that_share_a_parameter_are_refused() -> None:
    """Here and not later: workers see only their own stages."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match=r"'weight' of layer 2 \(Linear\) in stage 1 is shared with layer 0"):
        partition(model, 2)


class _TwoWeights(nn.Module):
    """Two parameters in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.ones(4))
        self.second = nn.Parameter(self.first.data)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.first * self.second


def _overlapping(trains: bool) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(2, 3))
    model[2].weight = nn.Parameter(model[0].weight.data[:, 1:], requires_grad=trains)
    return model


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (
            nn.Sequential(_TwoWeights(), nn.Linear(4, 2)),
            r"'second' of layer 0 .* in memory with parameter 'first' of layer 0",
        ),
        (_overlapping(trains=True), r"'weight' of layer 2 .* in memory with parameter 'weight' of layer 0"),
        (_overlapping(trains=False), r"'weight' of layer 2 .* in memory with parameter 'weight' of layer 0"),
    ],
    ids=["in one layer", "both train", "one is frozen"],
)
def test_parameters_that_share_memory_are_refused(model: nn.Sequential, named: str) -> None:
    with pytest.raises(ValueError, match=f"parameter {named}"):
        partition(model, 2)


def test_frozen_parameters_may_share_memory_and_neighbours_a_buffer() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2))
    model[1].weight = model[0].weight.requires_grad_(requires_grad=False)
    together = torch.randn(8)
    model[2].weight, model[2].bias = nn.Parameter(together[:6].view(2, 3)), nn.Parameter(together[6:])
    assert len(partition(model, 1)) == 1


def test_timing_a_model_leaves_it_and_random_numbers_as_they_were() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    before, state = [buffer.clone() for buffer in model.buffers()], torch.get_rng_state()
    partition(model, 2, balance="time", sample_inputs=torch.ones(8, 3))
    assert all(torch.equal(buffer, kept) for buffer, kept in zip(model.buffers(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
