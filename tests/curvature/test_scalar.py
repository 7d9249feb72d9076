"""ℍ_i, L_i and both conditions of Lemma 1 against a dense recursion of Appendix A with exact eigenvalues."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.curvature.scalar import ScalarCurvature
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from surmin.work import WorkMeter
from tests.cases import BY_NAME, CASES, Case
from tests.oracles import (
    DenseBlock,
    DenseRecursion,
    appendix_a,
    assert_is_map_of,
    dense,
    layer_blocks,
    points,
    stage_blocks,
)
from tests.waves import block_expansions

STEPS = 1000
VARIANTS = {
    "scalar": dict(per_sample=False, delta=1.0),
    "sample": dict(per_sample=True, delta=0.3),
    "scalar, relative": dict(per_sample=False, delta_relative=0.5),
    "sample, relative": dict(per_sample=True, delta_relative=2.0),
}
by_variant = pytest.mark.parametrize("variant", VARIANTS)


def recursion(blocks: list[DenseBlock], case: Case, batch: tuple[Tensor, Tensor], variant: str) -> list[DenseRecursion]:
    outputs = points(blocks, batch[0])[-1]
    return appendix_a(blocks, case, *batch, case.loss.smoothness(outputs), **VARIANTS[variant])


def relative(variant: str) -> bool:
    return "relative" in variant


@pytest.mark.parametrize(
    ("case", "variant"),
    [
        pytest.param(case, variant, marks=[pytest.mark.slow] if case.name == "attention" else [])
        for case in CASES
        for variant in VARIANTS
        if case.name != "attention" or variant == "sample"
    ],
    ids=str,
)
def test_blocks_equal_the_dense_recursion(case: Case, variant: str) -> None:
    network, batch = case.network(), case.batch(samples=2 if case.name == "attention" else 6)
    curvature = ScalarCurvature(power_steps=18, eigenvalue="lanczos", **VARIANTS[variant])
    found = block_expansions([network], case, batch, curvature)
    expected = recursion(layer_blocks(network), case, batch, variant)
    assert len(found) == len(expected)
    for expansion, exact in zip(found, expected, strict=True):
        assert_is_map_of(exact.local, expansion.curvature.product, rtol=1e-8, atol=1e-8 * float(exact.local.norm()))
        arrived = torch.cat([constant for (constant,) in expansion.messages])
        torch.testing.assert_close(arrived.expand(len(exact.above)), exact.above, rtol=1e-9, atol=1e-12)


@by_variant
@pytest.mark.parametrize("name", ["relu", "tanh", "convolution"])
def test_both_conditions_of_lemma_1_hold(name: str, variant: str) -> None:
    """(1) ℍ_zz - H_zz ⪰ 0 and (2) ℍ - H_θθ - H_zθᵀ [ℍ_zz - H_zz]⁻¹ H_zθ ⪰ 0, with the package's ℍ and L."""
    case = BY_NAME[name]
    network, batch = case.network(), case.batch()
    curvature = ScalarCurvature(power_steps=60, eigenvalue="lanczos", **VARIANTS[variant])
    found = block_expansions([network], case, batch, curvature)
    dense_blocks = recursion(layer_blocks(network), case, batch, variant)
    for index in range(1, len(found)):
        exact, below = dense_blocks[index], found[index - 1]
        constants = torch.cat([constant for (constant,) in below.messages]).expand(len(batch[0])) / len(batch[0])
        z_size = len(exact.zz)
        above_z = torch.diag(constants.repeat_interleave(z_size // len(batch[0])))
        scale = float(exact.zz.abs().max())
        assert torch.linalg.eigvalsh(above_z - exact.zz)[0] > -1e-9 * scale
        local = dense(found[index].curvature.product, found[index].block.size)
        schur = local - exact.tt - exact.zt.t() @ torch.linalg.pinv(above_z - exact.zz, hermitian=True) @ exact.zt
        assert torch.linalg.eigvalsh(schur)[0] > -1e-8 * float(local.abs().max())


@pytest.mark.parametrize("name", ["relu", "tanh", "parameter-free"])
def test_power_iteration_reaches_the_same_blocks_as_lanczos(name: str) -> None:
    case = BY_NAME[name]
    network, batch = case.network(), case.batch()
    exact = block_expansions([network], case, batch, ScalarCurvature(power_steps=60, eigenvalue="lanczos"))
    found = block_expansions([network], case, batch, ScalarCurvature(power_steps=STEPS))
    for left, right in zip(found, exact, strict=True):
        v = torch.ones(left.block.size, dtype=torch.float64)
        torch.testing.assert_close(left.curvature.product(v), right.curvature.product(v), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("variant", ["scalar", "sample"])
@pytest.mark.parametrize("name", ["tanh", "frozen", "parameter-free"])
def test_stage_blocks_equal_the_dense_recursion(name: str, variant: str) -> None:
    case = BY_NAME[name]
    stages = partition(case.network(), 2)
    batch = case.batch()
    curvature = ScalarCurvature(power_steps=60, eigenvalue="lanczos", **VARIANTS[variant])
    found = block_expansions(stages, case, batch, curvature, blocks="stage")
    for expansion, exact in zip(found, recursion(stage_blocks(stages), case, batch, variant), strict=True):
        assert_is_map_of(exact.local, expansion.curvature.product, rtol=1e-8, atol=1e-8 * float(exact.local.norm()))


@by_variant
@pytest.mark.parametrize("name", ["tanh", "convolution", "parameter-free"])
def test_stages_and_microbatches_change_nothing(name: str, variant: str) -> None:
    case = BY_NAME[name]
    network, batch = case.network(), case.batch()
    curvature = ScalarCurvature(power_steps=15, **VARIANTS[variant])
    whole = block_expansions([network], case, batch, curvature)
    for stages, microbatches in ((2, 1), (1, 3), (2, 6)):
        cut = block_expansions(partition(network, stages), case, batch, curvature, microbatches=microbatches)
        for left, right in zip(cut, whole, strict=True):
            v = torch.ones(left.block.size, dtype=torch.float64)
            torch.testing.assert_close(left.curvature.product(v), right.curvature.product(v), rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(left.gradient, right.gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("per_sample", "expected"), [(True, [1, 2, 3]), (False, [3])], ids=["sample", "scalar"])
def test_a_number_for_each_sample_waits_for_no_other_micro_batch(per_sample: bool, expected: list[int]) -> None:
    """How many messages have arrived when the stage begins with a part of the batch."""
    case, taken = BY_NAME["tanh"], 0
    pipeline = InProcessPipeline([case.network()], case.loss, microbatches=3)
    tapes = pipeline.forward(*case.batch()).tapes[0]

    def arriving() -> Iterator[Message]:
        nonlocal taken
        for tape in tapes:
            taken += 1
            yield (torch.ones(len(tape.output)),)

    counted = []
    for own, messages in ScalarCurvature(per_sample=per_sample).arrivals(tapes, arriving()):
        assert [len(tape.output) for tape in own] == [len(constant) for (constant,) in messages]
        counted.append(taken)
    assert counted == expected


@pytest.mark.parametrize("per_sample", [True, False], ids=["sample", "scalar"])
def test_the_first_block_s_products_leave_its_input_out(per_sample: bool) -> None:
    """J_θ v and J_θᵀ s, with nothing below to hand H_zθ v on to."""
    case = BY_NAME["tanh"]
    first = block_expansions([case.network()], case, case.batch(), ScalarCurvature(per_sample=per_sample))[0]
    work = WorkMeter()
    work.counted("product", first.curvature.product)(torch.ones(first.block.size, dtype=torch.float64))
    samples, (outputs, inputs) = len(case.batch()[0]), case.network()[0].weight.shape
    assert work.operations == 2 * 2 * samples * inputs * outputs


def test_a_stage_without_parameters_needs_no_delta() -> None:
    """Nothing is decoupled there: L goes down as λ_max alone."""
    case = BY_NAME["tanh"]
    network, batch = case.network(), case.batch()
    curvature = ScalarCurvature(power_steps=60, eigenvalue="lanczos")
    split = [network[:3], network[3:4], network[4:]]
    found = block_expansions(split, case, batch, curvature, blocks="stage")
    expected = recursion(stage_blocks(split), case, batch, "scalar")
    for expansion, exact in zip(found, [expected[0], expected[2]], strict=True):
        assert_is_map_of(exact.local, expansion.curvature.product, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("per_sample", [True, False], ids=["sample", "scalar"])
def test_a_dead_layer_leaves_finite_curvature(per_sample: bool) -> None:
    """λ and a δ relative to it are zero there."""
    case = BY_NAME["relu"]
    network = case.network()
    with torch.no_grad():
        network[2].bias.fill_(-100)
    curvature = ScalarCurvature(per_sample=per_sample, delta_relative=0.5)
    for expansion in block_expansions([network], case, case.batch(), curvature):
        assert expansion.curvature.product(torch.ones(expansion.block.size, dtype=torch.float64)).isfinite().all()
