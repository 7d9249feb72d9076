"""Block Gauss-Newton matrices against dense ones, exact and sampled, however the network and the batch are cut."""

from unittest.mock import Mock

import pytest
import torch
from curvlinops import GGNLinearOperator
from torch import Tensor, nn

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.gauss_newton import GaussNewton
from surmin.curvature.sampling import importance_rows
from surmin.losses import GradientOracle
from surmin.stages.linearize import linearize
from surmin.stages.partition import partition
from tests.cases import BY_NAME, CASES, Case
from tests.oracles import (
    assert_is_map_of,
    dense,
    gauss_newton,
    gradients,
    jacobians,
    layer_blocks,
    loss_hessians,
    stage_blocks,
)
from tests.waves import block_expansions

EXACT = FactorCurvature(fraction=1)
by_case = pytest.mark.parametrize("case", CASES, ids=str)


@by_case
def test_layer_blocks_are_exact(case: Case) -> None:
    network, batch = case.network(), case.batch()
    found = block_expansions([network], case, batch, EXACT)
    blocks = layer_blocks(network)
    exact, slopes = gauss_newton(blocks, case, *batch), gradients(blocks, case, *batch)
    assert len(found) == len(blocks)
    for index, expansion in enumerate(found):
        torch.testing.assert_close(expansion.gradient, slopes[index], rtol=1e-10, atol=1e-13)
        assert_is_map_of(exact[index][index], expansion.curvature.product, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cached", [1 << 20, 30, 1])
@pytest.mark.parametrize("name", ["relu", "tanh", "convolution", "attention", "embedding", "frozen", "parameter-free"])
def test_stage_blocks_keep_the_coupling_of_their_layers(
    name: str, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few samples' columns stay in the processor's cache."""
    monkeypatch.setattr("surmin.curvature.gauss_newton.CACHED_NUMBERS", cached)
    case = BY_NAME[name]
    stages, batch = partition(case.network(), 2), case.batch()
    found = block_expansions(stages, case, batch, EXACT, blocks="stage")
    exact = gauss_newton(stage_blocks(stages), case, *batch)
    for index, expansion in enumerate(found):
        assert_is_map_of(exact[index][index], expansion.curvature.product, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["tanh", "softplus"])
def test_one_block_is_the_generalized_gauss_newton_of_curvlinops(name: str) -> None:
    case = BY_NAME[name]
    network, (inputs, targets) = case.network(), case.batch()
    (found,) = block_expansions([network], case, (inputs, targets), EXACT, blocks="stage")
    # curvlinops averages squared error over outputs too, and has no half: 2 outputs make it ours
    loss = nn.CrossEntropyLoss() if case.classes else nn.MSELoss()
    parameters = [p for p in network.parameters() if p.requires_grad]
    reference = GGNLinearOperator(network, loss, parameters, [(inputs, targets)], check_deterministic=False)
    for seed in range(3):
        v = torch.randn(found.block.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(found.curvature.product(v), reference @ v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("fraction", [1, 0.5])
@by_case
def test_stages_and_microbatches_change_nothing(case: Case, fraction: float, rank: int | None) -> None:
    network, batch = case.network(), case.batch()
    curvature = FactorCurvature(rank=rank, fraction=fraction)
    whole = block_expansions([network], case, batch, curvature, seed=5)
    for stages, microbatches in ((2, 1), (1, 3), (2, 6)):
        cut = block_expansions(partition(network, stages), case, batch, curvature, microbatches=microbatches, seed=5)
        for left, right in zip(cut, whole, strict=True):
            v = torch.ones(left.block.size, dtype=torch.float64)
            torch.testing.assert_close(left.curvature.product(v), right.curvature.product(v), rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(left.gradient, right.gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("name", "fraction", "rank"), [
    ("logistic", 0.34, None), ("logistic", 0.34, 1), ("logistic", 1, 3), ("positions", 0.5, 2),
])  # fmt: skip
def test_sampled_blocks_are_unbiased(name: str, fraction: float, rank: int | None) -> None:
    case, draws = BY_NAME[name], 120
    network, batch = case.network(), case.batch()
    curvature = FactorCurvature(rank=rank, fraction=fraction)
    rounds = [block_expansions([network], case, batch, curvature, seed=seed) for seed in range(draws)]
    exact = gauss_newton(layer_blocks(network), case, *batch)
    for index in range(len(exact)):
        v = torch.randn(len(exact[index][index]), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        expected = exact[index][index] @ v
        found = torch.stack([expansions[index].curvature.product(v) for expansions in rounds])
        spread = (found - found.mean(0)).square().sum(1).mean().sqrt() / draws**0.5
        assert (found.mean(0) - expected).norm() < 3 * spread
        assert spread < 0.35 * expected.norm()


@pytest.mark.parametrize("rank", [1, 3])
def test_random_columns_of_the_smoothness_bound(rank: int) -> None:
    """Every column is ±√(L / rank) in every entry, whatever the Hessian is."""
    case = BY_NAME["tanh"]
    outputs, (_, targets) = case.network()(case.batch()[0]).detach(), case.batch()
    curvature = FactorCurvature(rank=rank, fraction=1, top_factor="smoothness")
    ((columns,),) = curvature.top(case.loss, [outputs], [targets], seed=3)
    assert len(columns) == rank
    torch.testing.assert_close(columns.square(), torch.full_like(columns, case.loss.smoothness(outputs) / rank))


def test_sampled_rows_carry_their_weights_down_the_pipe() -> None:
    """G on a fraction of the batch is the weighted sum of those samples' own terms."""
    case = BY_NAME["tanh"]
    network, (inputs, targets) = case.network(), case.batch(samples=9)
    with torch.no_grad():
        network[-1].weight *= 40  # some samples are much more curved than others
    curvature = FactorCurvature(fraction=0.5)
    outputs = network(inputs).detach()
    ((columns, rows),) = curvature.top(case.loss, [outputs], [targets], seed=3)
    assert len(rows) == curvature.sample_count(9) == 4
    flat = columns.flatten(2)
    curvatures = torch.einsum("knd,kne->nde", flat, flat)
    traces, generator = case.loss.trace(outputs, targets), torch.Generator(outputs.device).manual_seed(3)
    drawn, weights = importance_rows(traces, 4, generator)
    assert torch.equal(rows, drawn)
    assert weights.std() > 0.05
    exact = loss_hessians(case.loss, outputs, targets)[rows]
    torch.testing.assert_close(curvatures, weights.view(-1, 1, 1) * exact)
    (found,) = block_expansions([network], case, (inputs, targets), _Given([(columns, rows)], 4), blocks="stage")
    (columns_of,) = jacobians(stage_blocks([network]), inputs)
    expected = sum(columns_of[row].t() @ curvatures[k] @ columns_of[row] for k, row in enumerate(rows)) / 4
    torch.testing.assert_close(dense(found.curvature.product, found.block.size), expected)


def test_messages_are_as_equal_as_can_be() -> None:
    """Seven samples in three messages; and never an empty one."""
    case = BY_NAME["tanh"]
    network, (inputs, targets) = case.network(), case.batch(samples=12)
    curvature = FactorCurvature(fraction=0.6)
    assert curvature.message_sizes(12, 3) == [3, 2, 2]
    assert curvature.message_sizes(12, 12) == [1] * 7
    messages = curvature.top(case.loss, network(inputs).detach().chunk(3), targets.chunk(3), seed=1)
    ((columns, rows),) = curvature.top(case.loss, [network(inputs).detach()], [targets], seed=1)
    assert [len(own) for _, own in messages] == [3, 2, 2]
    assert torch.equal(torch.cat([own for _, own in messages]), rows)
    assert torch.equal(torch.cat([own for own, _ in messages], dim=1), columns)


class _Given(FactorCurvature):
    """Whatever the draw, these columns at the top."""

    def __init__(self, messages: list[tuple[Tensor, ...]], samples: int) -> None:
        super().__init__(fraction=0.5)
        object.__setattr__(self, "messages", messages)

    def top(self, *_: object) -> list[tuple[Tensor, ...]]:
        return self.messages


def test_the_smoothness_factor_bounds_the_exact_one() -> None:
    for name in ("relu", "logistic", "positions", "convolution"):
        case = BY_NAME[name]
        network, batch = case.network(), case.batch()
        loose = block_expansions([network], case, batch, FactorCurvature(fraction=1, top_factor="smoothness"))
        for expansion, exact in zip(loose, block_expansions([network], case, batch, EXACT), strict=True):
            difference = dense(
                lambda v, w=expansion, e=exact: w.curvature.product(v) - e.curvature.product(v), expansion.block.size
            )
            largest = torch.linalg.eigvalsh(dense(expansion.curvature.product, expansion.block.size))[-1]
            assert torch.linalg.eigvalsh(difference)[0] > -1e-10 * largest


def test_a_gradient_oracle_gives_the_smoothness_factor() -> None:
    case = BY_NAME["softplus"]
    network, batch = case.network(), case.batch()
    oracle = Case("oracle", case.make, case.input_shape, case.target_shape, GradientOracle(lambda z, y: z - y, 1.0))
    found, exact = block_expansions([network], oracle, batch, EXACT), block_expansions([network], case, batch, EXACT)
    for left, right in zip(found, exact, strict=True):
        torch.testing.assert_close(left.gradient, right.gradient)
        v = torch.ones(left.block.size, dtype=torch.float64)
        torch.testing.assert_close(left.curvature.product(v), right.curvature.product(v))


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("name", ["relu", "convolution", "frozen", "parameter-free"])
def test_without_pieces_the_messages_are_the_same_and_the_first_block_does_nothing(
    name: str, microbatches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, linearized = BY_NAME[name], Mock(wraps=linearize)
    stages, batch = partition(case.network(), 2), case.batch(samples=6)
    kept = block_expansions(stages, case, batch, EXACT, blocks="stage", microbatches=microbatches)
    monkeypatch.setattr("surmin.curvature.gauss_newton.linearize", linearized)
    bare = FactorCurvature(fraction=1, keeps_pieces=False)
    found = block_expansions(stages, case, batch, bare, blocks="stage", microbatches=microbatches)
    first, *_ = found
    for own, full in zip(found, kept, strict=True):
        assert own.curvature.pieces == [] and full.curvature.pieces
        assert own.curvature.samples == full.curvature.samples
        for message, expected in zip(own.messages, full.messages, strict=True):
            assert all(map(torch.equal, message, expected))
    assert not {call.args[0].name for call in linearized.call_args_list} & set(first.block.names)


def test_nothing_comes_down_below_the_first_trainable_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frozen first layer is not even linearized: its columns would be the widest of all."""
    case, linearized = BY_NAME["frozen"], Mock(wraps=linearize)
    monkeypatch.setattr("surmin.curvature.gauss_newton.linearize", linearized)
    found = block_expansions([case.network()], case, case.batch(), EXACT)
    assert isinstance(found[0].curvature, GaussNewton)
    assert [type(piece.point).__name__ for piece in found[0].curvature.pieces] == ["LinearAtPoint"]
    for expansion in found:
        expansion.curvature.product(torch.ones(expansion.block.size, dtype=torch.float64))
    assert sorted(call.args[0].name for call in linearized.call_args_list) == ["2", "3", "4", "5", "6"]
