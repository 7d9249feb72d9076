"""Second moments for the Kronecker preconditioner, against sums over explicit rows."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.gauss_newton import GaussNewton
from surmin.curvature.input_moment import InputMomentCache
from surmin.curvature.moments import KroneckerMoments, MeanDiagonal, estimate_moments
from surmin.pipeline.wave import BlockExpansion
from surmin.replicas import ONE_REPLICA
from surmin.stages.probe import all_equal, probe
from surmin.work import WorkMeter
from tests.cases import BY_NAME
from tests.oracles import dense
from tests.waves import block_expansions


def expansions_of(name: str, microbatches: int = 1, fraction: float = 1) -> list[BlockExpansion]:
    case = BY_NAME[name]
    return block_expansions(
        [case.network()], case, case.batch(), FactorCurvature(fraction=fraction), microbatches=microbatches
    )


def moments_of(expansion: BlockExpansion, seed: int = 0) -> list[KroneckerMoments | MeanDiagonal]:
    assert isinstance(expansion.curvature, GaussNewton)
    return estimate_moments(expansion.curvature, None, seed)


def with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("name", ["tanh", "softplus", "logistic"])
def test_linear_layers_on_the_whole_batch(name: str, microbatches: int) -> None:
    for expansion in expansions_of(name, microbatches):
        (moment,) = moments_of(expansion)
        assert isinstance(moment, KroneckerMoments)
        bias = "bias" in expansion.block.layers[0].parameters
        assert moment.bias is bias
        z = torch.cat([tape.inputs[expansion.block.start].detach() for tape in expansion.tapes])
        rows = with_one(z) if bias else z
        torch.testing.assert_close(moment.inputs, rows.t() @ rows / 6)
        # the mean diagonal blocks of G, taken apart: tr(G) = tr over samples of |z|² |r|²
        (piece,) = expansion.curvature.pieces
        columns = piece.columns
        torch.testing.assert_close(moment.outputs, torch.einsum("kni,knj->ij", columns, columns) / 6)


@pytest.mark.parametrize("is_first", [False, True], ids=["any", "first"])
def test_linear_layers_on_positions_have_one_row_for_each_of_them(is_first: bool) -> None:
    expansion = expansions_of("positions")[0]
    assert isinstance(expansion.curvature, GaussNewton)
    inputs, columns = expansion.tapes[0].inputs[0], expansion.curvature.pieces[0].columns
    (moment,) = estimate_moments(expansion.curvature, InputMomentCache().of([inputs]) if is_first else None, 0)
    assert isinstance(moment, KroneckerMoments)
    rows, outputs = with_one(inputs.reshape(18, 3)), columns.reshape(-1, 4)
    torch.testing.assert_close(moment.inputs, rows.t() @ rows / 18)
    torch.testing.assert_close(moment.outputs, outputs.t() @ outputs / 6)


def test_one_sample_makes_the_kronecker_product_exact() -> None:
    """With a single sample and one column per output, G = C ⊗ Ĝ."""
    case = BY_NAME["tanh"]
    for expansion in block_expansions([case.network()], case, case.batch(samples=1), FactorCurvature(fraction=1)):
        (moment,) = moments_of(expansion)
        assert isinstance(moment, KroneckerMoments)
        rows, columns = len(moment.outputs), len(moment.inputs)
        full = torch.kron(moment.outputs, moment.inputs)
        weights = [row * columns + column for row in range(rows) for column in range(columns - 1)]
        order = torch.tensor(weights + [row * columns + columns - 1 for row in range(rows)])
        found = dense(expansion.curvature.product, expansion.block.size)
        torch.testing.assert_close(full[order][:, order], found, rtol=1e-9, atol=1e-14)


def test_one_sample_at_one_position_makes_a_convolution_s_kronecker_product_exact() -> None:
    """A kernel as large as the image: the flat order of (out, in, height, width) and the patches' order agree."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, (2, 3)), torch.nn.Flatten()).double()
    batch = torch.randn(1, 2, 2, 3, dtype=torch.float64), torch.tensor([1])
    (expansion,) = block_expansions([network], BY_NAME["convolution"], batch, FactorCurvature(fraction=1))
    (moment,) = moments_of(expansion)
    assert isinstance(moment, KroneckerMoments)
    order = torch.tensor([13 * row + column for row in range(3) for column in range(12)] + [12, 25, 38])
    full = torch.kron(moment.outputs, moment.inputs)[order][:, order]
    torch.testing.assert_close(full, dense(expansion.curvature.product, 39), rtol=1e-9, atol=1e-14)


def test_a_convolution_s_rows_are_its_patches() -> None:
    expansion = expansions_of("convolution")[0]
    (moment,) = moments_of(expansion)
    assert isinstance(moment, KroneckerMoments)
    images = expansion.tapes[0].inputs[0].detach()
    padded = F.pad(images, (1, 1, 1, 1))
    patches = torch.stack(
        [padded[n, :, i : i + 3, j : j + 3].flatten() for n in range(6) for i in range(4) for j in range(4)]
    )
    rows = with_one(patches)
    torch.testing.assert_close(moment.inputs, rows.t() @ rows / len(rows))
    (piece,) = expansion.curvature.pieces
    columns = piece.columns.movedim(2, -1).flatten(0, -2)
    torch.testing.assert_close(moment.outputs, columns.t() @ columns / 6)


@pytest.mark.parametrize("name", ["positions", "embedding", "frozen"])
def test_layers_without_kronecker_structure_get_their_mean_diagonal(name: str) -> None:
    """An unbiased probe of tr G / P: the mean over seeds must come out right."""
    for expansion in expansions_of(name):
        if isinstance(moments_of(expansion)[0], KroneckerMoments):
            continue
        exact = dense(expansion.curvature.product, expansion.block.size).diagonal().mean()
        found = [moments_of(expansion, seed) for seed in range(300)]
        values = torch.stack([moment.mean for (moment,) in found])
        assert (values.mean() - exact).abs() < 4 * values.std() / 300**0.5
        assert found[0][0].size == expansion.block.size


def as_rows(inputs: Tensor) -> Tensor:
    return inputs.flatten(1)


def test_the_network_s_own_moment_is_kept_until_its_inputs_change() -> None:
    cache, data = InputMomentCache(), torch.randn(12, 3, dtype=torch.float64)

    def exact(rows: Tensor) -> Tensor:
        return with_one(rows).t() @ with_one(rows) / len(rows)

    first = cache.of(data.chunk(2)).moment(12, as_rows)
    torch.testing.assert_close(first, exact(data))
    assert cache.of(data.chunk(2)).moment(12, as_rows) is first
    data[0] += 1
    torch.testing.assert_close(cache.of(data.chunk(2)).moment(12, as_rows), exact(data))
    other = data.clone()
    other[3] += 1
    torch.testing.assert_close(cache.of(other.chunk(2)).moment(12, as_rows), exact(other))
    images = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(cache.of([images]).moment(4, as_rows), exact(images.flatten(1)))


@pytest.mark.parametrize("microbatches", [1, 3])
def test_whether_the_input_is_the_same_is_looked_at_once(microbatches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the device."""
    looks, cache, expansion = Mock(wraps=all_equal), InputMomentCache(), expansions_of("tanh", microbatches)[0]
    monkeypatch.setattr("surmin.curvature.input_moment.all_equal", looks)
    for rounds in range(3):
        expansion.moments(cache, 0, WorkMeter(), ONE_REPLICA)
        assert looks.call_count == rounds


def test_what_numpy_writes_into_the_input_is_seen() -> None:
    """It leaves the version as it is."""
    cache, data = InputMomentCache(), torch.randn(12, 3, dtype=torch.float64, device="cpu")
    cache.of([data]).moment(12, as_rows)
    version = data._version
    data.numpy()[:] = np.random.default_rng(0).standard_normal((12, 3))
    assert data._version == version
    expected = with_one(data).t() @ with_one(data) / 12
    torch.testing.assert_close(cache.of([data]).moment(12, as_rows), expected)


def test_the_moment_of_a_transposed_input_is_its_own() -> None:
    """It lies where the input lies."""
    cache, data = InputMomentCache(), torch.randn(4, 4, dtype=torch.float64)
    for inputs in (data, data.t()):
        expected = with_one(inputs).t() @ with_one(inputs) / 4
        torch.testing.assert_close(cache.of([inputs]).moment(4, as_rows), expected)


def test_the_network_s_own_moment_on_a_fraction_takes_evenly_spaced_rows_however_the_batch_is_cut() -> None:
    data = torch.randn(12, 3, dtype=torch.float64)
    expected = with_one(data[::4]).t() @ with_one(data[::4]) / 3
    for parts in (1, 2, 3, 4, 6):
        torch.testing.assert_close(InputMomentCache().of(data.chunk(parts)).moment(3, as_rows), expected)


def test_a_change_between_the_numbers_that_are_looked_at_is_seen() -> None:
    cache, data = InputMomentCache(), torch.randn(4000, 3, dtype=torch.float64)
    looked_at = probe(data)
    cache.of([data]).moment(4000, as_rows)
    data[0, 1] += 100
    assert torch.equal(probe(data), looked_at)
    expected = with_one(data).t() @ with_one(data) / 4000
    torch.testing.assert_close(cache.of([data]).moment(4000, as_rows), expected)


def test_only_a_block_s_first_layer_has_the_network_s_own_moment() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4)).double()
    case = BY_NAME["tanh"]
    (expansion,) = block_expansions([network], case, case.batch(), FactorCurvature(fraction=1), blocks="stage")
    assert isinstance(expansion.curvature, GaussNewton)
    (tape,) = expansion.tapes
    moments = estimate_moments(expansion.curvature, InputMomentCache().of([tape.inputs[0]]), 0)
    for moment, inputs in zip(moments, (tape.inputs[0], tape.inputs[2]), strict=True):
        assert isinstance(moment, KroneckerMoments)
        rows = with_one(inputs.detach())
        torch.testing.assert_close(moment.inputs, rows.t() @ rows / len(rows))
