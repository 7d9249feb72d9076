"""One stage: what a pass leaves on tape, and the gradients of a backward pass, against plain autograd."""

import pytest
import torch
from torch import nn

from surmin.stages.block import cut_blocks
from surmin.stages.stage import Stage, stages_of
from surmin.stages.tape import selected
from tests.cases import BY_NAME, CASES, Case
from tests.oracles import DenseBlock, layer_blocks


@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward_equals_autograd_at_every_boundary(case: Case) -> None:
    network, (inputs, _) = case.network(), case.batch()
    stage = Stage.of(network)
    tape = stage.forward(inputs)
    torch.manual_seed(3)
    cotangent = torch.randn_like(tape.output)
    floating = [index for index, z in enumerate(tape.inputs[:-1]) if z.is_floating_point()]
    gradients = stage.backward(tape, cotangent, floating)
    assert [len(gradient) for gradient in gradients] == [layer.size for layer in stage.layers]
    parameters = [p for p in network.parameters() if p.requires_grad]
    expected = torch.autograd.grad(network(inputs), parameters, cotangent)
    torch.testing.assert_close(torch.cat(gradients), torch.cat([g.flatten() for g in expected]))
    for index in floating:
        state = inputs if index == 0 else network[:index](inputs).detach()
        (below,) = torch.autograd.grad(network[index:](state.requires_grad_()), state, cotangent)
        torch.testing.assert_close(tape.cotangents[index], below)
    assert tape.cotangents[len(stage.layers)] is cotangent


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_pass_at_other_parameters_leaves_the_network_alone(case: Case) -> None:
    network, (inputs, _) = case.network(), case.batch()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stage, block = Stage.of(network), DenseBlock(nn.Sequential(network))
    move = torch.randn(block.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ((own,),) = cut_blocks([stage], "stage")
    output = stage.forward(inputs, own.moved(move)).output
    torch.testing.assert_close(output, block(inputs, block.vector() + move), rtol=1e-14, atol=1e-14)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [1, 4], [2, 3, 3, 5], [5]], ids=str)
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_rows_of_a_batch_are_found_in_the_tapes_of_its_parts(rows: list[int], parts: int) -> None:
    network, (inputs, _) = BY_NAME["tanh"].network(), BY_NAME["tanh"].batch()
    stage, chosen = Stage.of(network), torch.tensor(rows, dtype=torch.int64)
    whole = stage.forward(inputs)
    tape = selected([stage.forward(part) for part in inputs.chunk(parts)], chosen)
    assert len(tape.inputs) == len(whole.inputs)
    for index, expected in enumerate(whole.inputs):
        torch.testing.assert_close(tape.inputs[index], expected.detach()[chosen])
    torch.testing.assert_close(tape.output, whole.output.detach()[chosen])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_blocks_are_one_trainable_layer_and_what_follows_it(case: Case) -> None:
    network = case.network()
    (own,) = cut_blocks([Stage.of(network)], "layer")
    expected = layer_blocks(network)
    assert [block.size for block in own] == [block.size for block in expected]
    assert [block.stop - block.start for block in own] == [len(block.module) for block in expected]
    assert [block.index for block in own] == list(range(len(own)))
    for block, dense in zip(own, expected, strict=True):
        assert torch.equal(block.vector(), dense.vector())
        assert sum(len(piece) for piece in block.split(block.vector())) == block.size


def test_blocks_are_numbered_through_all_stages_and_those_without_parameters_left_out() -> None:
    modules = [nn.Flatten(), nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), nn.Tanh(), nn.Linear(2, 2)]
    stages = stages_of(modules)
    by_layer = [[block.index for block in own] for own in cut_blocks(stages, "layer")]
    by_stage = [[block.index for block in own] for own in cut_blocks(stages, "stage")]
    assert by_layer == [[-1], [0, 1], [-1], [2]]
    assert by_stage == [[-1], [0], [-1], [1]]
    assert [layer.name for stage in stages for layer in stage.layers] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("blocks", ["layer", "stage"])
def test_an_empty_stage_passes_everything_through(blocks: str) -> None:
    stage = Stage.of(nn.Sequential())
    assert stage.parameters == []
    inputs = torch.randn(2, 3)
    tape = stage.forward(inputs)
    assert torch.equal(tape.output, inputs)
    assert stage.backward(tape, torch.ones(2, 3), [0]) == []
    assert torch.equal(tape.cotangents[0], torch.ones(2, 3))
    assert [block.size for own in cut_blocks([stage], blocks) for block in own] == [0]  # type: ignore[arg-type]
