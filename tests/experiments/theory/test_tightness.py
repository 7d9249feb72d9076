"""Tightness against dense algebra on small networks."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian

import surmin.experiments.theory.tightness as tightness
from surmin.experiments.theory.expansion import LocalBlock
from surmin.experiments.theory.tightness import LayerTightness, measure_tightness
from surmin.losses import CrossEntropy
from surmin.options.presets import resolve_options
from surmin.pipeline.in_process import InProcessPipeline
from tests.cases import BY_NAME, Case
from tests.oracles import (
    DenseBlock,
    DenseRecursion,
    appendix_a,
    gauss_newton,
    gradients,
    layer_blocks,
    points,
    reference_loss,
    reference_mean_loss,
    run,
)

OPTIONS = resolve_options("paper", {"eigenvalue": "lanczos", "power_steps": 30, "delta": 0.3})
NAMES = ["tanh", "softplus", "logistic", "parameter-free"]


def measure(case: Case, directions: int = 4) -> dict[str, list[LayerTightness]]:
    pipeline = InProcessPipeline([case.network()], case.loss)
    found = measure_tightness(pipeline, *case.batch(), OPTIONS, directions=directions, lanczos_steps=40)
    return {name: [each for each in found if each.curvature == name] for name in ("scalar", "sample", "factor")}


def along_units(own: LocalBlock, count: int, seed: int) -> Tensor:
    """The gradient, then every unit vector: sums of forms are traces."""
    return torch.cat([own.loss.gradient.unsqueeze(0), torch.eye(len(own.loss.gradient), dtype=torch.float64)])


def true_hessians(blocks: Sequence[DenseBlock], case: Case) -> list[Tensor]:
    inputs, targets = case.batch()
    here = [block.vector() for block in blocks]

    def loss_at(position: int, vector: Tensor) -> Tensor:
        values = [vector if i == position else own for i, own in enumerate(here)]
        return reference_mean_loss(case.loss, run(blocks, inputs, values), targets)

    return [hessian(lambda v, i=i: loss_at(i, v), own) for i, own in enumerate(here)]


def recursion(blocks: Sequence[DenseBlock], case: Case, *, per_sample: bool) -> list[DenseRecursion]:
    smoothness = 0.5 if isinstance(case.loss, CrossEntropy) else case.loss.smoothness(torch.zeros(6, 3))
    return appendix_a(blocks, case, *case.batch(), smoothness, per_sample=per_sample, delta=0.3)


def largest(matrix: Tensor) -> float:
    return float(torch.linalg.eigvalsh(0.5 * (matrix + matrix.t()))[-1])


@pytest.mark.parametrize("name", NAMES)
def test_every_ratio_is_that_of_dense_matrices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tightness, "_directions", along_units)
    case = BY_NAME[name]
    found, blocks = measure(case), layer_blocks(case.network())
    exact, slopes = gauss_newton(blocks, case, *case.batch()), gradients(blocks, case, *case.batch())
    hessians = true_hessians(blocks, case)
    claimed = {
        "scalar": [own.local for own in recursion(blocks, case, per_sample=False)],
        "sample": [own.local for own in recursion(blocks, case, per_sample=True)],
        "factor": [len(blocks) * exact[i][i] for i in range(len(blocks))],
    }
    for curvature, matrices in claimed.items():
        for i, (each, matrix) in enumerate(zip(found[curvature], matrices, strict=True)):
            g, gauss, true = slopes[i], exact[i][i], hessians[i]
            assert each.layer == i + 1
            assert each.random_ratio == pytest.approx(float(matrix.trace() / gauss.trace()), rel=1e-8)
            assert each.gradient_ratio == pytest.approx(float(g @ matrix @ g / (g @ gauss @ g)), rel=1e-8)
            assert each.random_hessian_ratio == pytest.approx(float(matrix.trace() / true.trace()), rel=1e-8)
            assert each.gradient_hessian_ratio == pytest.approx(float(g @ matrix @ g / (g @ true @ g)), rel=1e-8)
            assert each.largest_ratio == pytest.approx(largest(matrix) / largest(gauss), rel=1e-8)
            excess = largest(true - matrix) / largest(matrix)
            assert each.hessian_excess == pytest.approx(excess, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_output_curvatures_are_those_of_dense_algebra(name: str) -> None:
    case = BY_NAME[name]
    found, blocks = measure(case, directions=1), layer_blocks(case.network())
    for curvature in ("scalar", "sample"):
        exact = recursion(blocks, case, per_sample=curvature == "sample")
        for each, own in zip(found[curvature], exact, strict=True):
            assert each.output_curvature == pytest.approx(float(own.above.mean()), rel=1e-8)
    states, targets = points(blocks, case.batch()[0]), case.batch()[1]
    for each, position in zip(found["factor"], range(1, len(blocks) + 1), strict=True):
        values = [
            _gauss_newton_in_state(blocks[position:], case, z, y)
            for z, y in zip(states[position], targets, strict=True)
        ]
        assert each.output_curvature == pytest.approx(sum(values) / len(values), rel=1e-8)


def _gauss_newton_in_state(above: Sequence[DenseBlock], case: Case, state: Tensor, target: Tensor) -> float:
    """λ_max of Jᵀ ∇²ℓ J of one sample, J that of the output by a state below."""

    def output(z: Tensor) -> Tensor:
        return run(above, z.view(state.shape).unsqueeze(0), [block.vector() for block in above]).flatten()

    end = output(state.flatten())
    shape = run(above, state.unsqueeze(0), [block.vector() for block in above]).shape[1:]
    curvature = hessian(lambda z: reference_loss(case.loss, z.view(shape), target), end)
    jacobian = torch.autograd.functional.jacobian(output, state.flatten())
    return largest(jacobian.t() @ curvature @ jacobian)


@pytest.mark.parametrize("name", NAMES)
def test_scalar_curvatures_bound_every_layers_hessian(name: str) -> None:
    found = measure(BY_NAME[name], directions=1)
    assert all(each.is_bound for curvature in ("scalar", "sample") for each in found[curvature])


def test_factor_is_exact_up_to_its_inflation_and_bounds_no_more_than_gauss_newton() -> None:
    found = measure(BY_NAME["tanh"])["factor"]
    for each in found:
        assert each.random_ratio == pytest.approx(4) and each.gradient_ratio == pytest.approx(4)
        assert each.largest_ratio == pytest.approx(4)
    assert found[-1].is_bound and not all(each.is_bound for each in found)


def test_the_same_seed_gives_the_same_figures() -> None:
    assert measure(BY_NAME["softplus"], directions=1) == measure(BY_NAME["softplus"], directions=1)
