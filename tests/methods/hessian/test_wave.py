"""Hessian products by waves against the dense Hessian by nested reverse mode."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.nn.utils.parametrizations import weight_norm

from surmin.losses import CrossEntropy
from surmin.methods.hessian.columns import BlockColumns, Columns, JointColumns
from surmin.methods.hessian.wave import HessianAtPoint, NetworkHessian
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.cases import CASES, Case
from tests.device import here
from tests.modules import Cubed, Last
from tests.oracles import layer_blocks, reference_mean_loss, run


@cache
def dense_blocks(case: Case) -> list[list[Tensor]]:
    """∇²h by pairs of layers that train."""
    batch = case.batch()
    blocks = layer_blocks(case.network())
    start = tuple(block.vector() for block in blocks)
    found = hessian(lambda *values: reference_mean_loss(case.loss, run(blocks, batch[0], values), batch[1]), start)
    trains = [index for index, block in enumerate(blocks) if block.size]
    return [[found[row][column] for column in trains] for row in trains]


def hessian_of(pipeline: InProcessPipeline, batch: tuple[Tensor, Tensor], columns: Columns) -> HessianAtPoint:
    hessian = NetworkHessian(pipeline, columns)
    wave = pipeline.forward(*batch, hessian.boundaries)
    pipeline.backward(wave, hessian.boundaries)
    return hessian.at(wave, *batch)


def make_pipeline(case: Case, stages: int, microbatches: int) -> InProcessPipeline:
    network = case.network()
    trainable = len([block for block in layer_blocks(network) if block.size])
    return InProcessPipeline(partition(network, min(stages, trainable)), case.loss, microbatches=microbatches)


def random_directions(pipeline: InProcessPipeline, columns: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    layers = [layer for stage in pipeline.stages for layer in stage.layers if layer.size]
    return {layer.name: torch.randn(columns, layer.size, dtype=torch.float64, generator=generator) for layer in layers}


@pytest.mark.parametrize(("stages", "microbatches"), [(1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_block_diagonal(case: Case, stages: int, microbatches: int) -> None:
    batch = case.batch()
    pipeline = make_pipeline(case, stages, microbatches)
    directions = random_directions(pipeline, 2)
    found = hessian_of(pipeline, batch, BlockColumns()).products(directions)
    dense = dense_blocks(case)
    for index, (name, own) in enumerate(directions.items()):
        torch.testing.assert_close(found[name], own @ dense[index][index], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("stages", "microbatches"), [(1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_whole_hessian(case: Case, stages: int, microbatches: int) -> None:
    batch = case.batch()
    pipeline = make_pipeline(case, stages, microbatches)
    directions = random_directions(pipeline, 3)
    found = hessian_of(pipeline, batch, JointColumns()).products(directions)
    dense = dense_blocks(case)
    for index, name in enumerate(directions):
        expected = sum(own @ dense[other][index] for other, own in enumerate(directions.values()))
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)


def test_nothing_moves_that_need_not(microbatches: int = 2, columns: int = 3) -> None:
    """Block columns make a triangle of messages; below the first layer that trains there are none."""
    torch.manual_seed(0)
    widths = (4, 5, 6, 3, 2)
    layers = [nn.Sequential(nn.Linear(*pair), nn.Tanh()) for pair in pairwise(widths)]
    layers[0].requires_grad_(False)
    case = next(case for case in CASES if case.name == "softplus")
    pipeline = InProcessPipeline([layer.double() for layer in layers], case.loss, microbatches=microbatches)
    batch = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    point = hessian_of(pipeline, batch, BlockColumns())
    before = pipeline.traffic.copy()
    point.products(random_directions(pipeline, columns))
    assert pipeline.traffic.messages - before.messages == 2 * 2 * microbatches
    numbers = len(batch[0]) * columns * (1 * 6 + 2 * 3)
    assert pipeline.traffic.bytes - before.bytes == 2 * 8 * numbers
    assert pipeline.traffic.forward_waves == before.forward_waves + 1


@pytest.mark.skipif(here().type == "cuda", reason="cuDNN's backward is not differentiable")
@pytest.mark.parametrize("columns", [BlockColumns(), JointColumns()], ids=lambda columns: type(columns).__name__)
def test_recurrent_layers(columns: Columns) -> None:
    """Which `vmap` refuses."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), Last(nn.LSTM), nn.Linear(3, 3)).double()
    batch = torch.randn(6, 4, 2, dtype=torch.float64), torch.arange(6) % 3
    pipeline = InProcessPipeline(partition(network, 3), CrossEntropy(), microbatches=2)
    directions = random_directions(pipeline, 2)
    found = hessian_of(pipeline, batch, columns).products(directions)
    blocks = layer_blocks(network)
    start = tuple(block.vector() for block in blocks)
    mean_loss = lambda *values: reference_mean_loss(CrossEntropy(), run(blocks, batch[0], values), batch[1])  # noqa: E731
    dense = hessian(mean_loss, start)
    for row, name in enumerate(directions):
        entered = range(len(start)) if isinstance(columns, JointColumns) else [row]
        expected = sum(list(directions.values())[other] @ dense[other][row] for other in entered)
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        (Cubed(4, 3), r"layer 0 \(Cubed\) cannot .*: Cube, written by hand, may hide"),
        (weight_norm(nn.Linear(4, 3)), r"layer 0 \(.*Linear\) cannot .*: torch's second derivative of weight_norm is"),
    ],
    ids=["written by hand", "wrong in torch"],
)
def test_functions_whose_second_derivative_may_be_wrong_are_refused(layer: nn.Module, complaint: str) -> None:
    network = nn.Sequential(layer, nn.Linear(3, 2)).double()
    pipeline = InProcessPipeline([network], CrossEntropy())
    batch = torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 2
    hessian, directions = hessian_of(pipeline, batch, BlockColumns()), random_directions(pipeline, 2)
    with pytest.raises(RuntimeError, match=complaint):
        hessian.products(directions)
