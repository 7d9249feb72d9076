"""Theorem 1's experiment against Algorithm 1 in dense algebra, and with every part of the proof broken on purpose."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import surmin.experiments.theory.theorem as theorem
from surmin import SurrogateMinimizer
from surmin.curvature.gauss_newton import GaussNewton
from surmin.experiments.theory.expansion import expand, largest_eigenvalue
from surmin.experiments.theory.theorem import TheoremRound, TheoremRun, run_theorem
from surmin.losses import CrossEntropy
from surmin.options import Options
from surmin.options.presets import resolve_options
from surmin.pipeline.in_process import InProcessPipeline
from tests.cases import BY_NAME, Case
from tests.oracles import (
    DenseBlock,
    appendix_a,
    gauss_newton,
    gradients,
    layer_blocks,
    reference_mean_loss,
    run,
)

CURVATURES = ("scalar", "sample", "factor")


def options(curvature: str, inner_steps: int = 1) -> Options:
    given = {"curvature": curvature, "solver": "gd", "inner_steps": inner_steps}
    exact = {} if curvature == "factor" else {"power_steps": 30, "eigenvalue": "lanczos"}
    return resolve_options("paper", {**given, **exact})


def try_it(case: Case, curvature: str, inner_steps: int = 1, rounds: int = 20, lanczos_steps: int = 40) -> TheoremRun:
    pipeline = InProcessPipeline([case.network()], case.loss)
    chosen = options(curvature, inner_steps)
    return run_theorem(pipeline, *case.batch(), chosen, rounds=rounds, lanczos_steps=lanczos_steps)


def dense_blocks(blocks: list[DenseBlock], case: Case, curvature: str) -> list[Tensor]:
    """ℍ_i of every block: κ = m times Gauss-Newton, or Appendix A."""
    batch = case.batch()
    if curvature == "factor":
        exact = gauss_newton(blocks, case, *batch)
        return [len(blocks) * exact[i][i] for i in range(len(blocks))]
    smoothness = 0.5 if isinstance(case.loss, CrossEntropy) else case.loss.smoothness(torch.zeros(6, 3))
    return [each.local for each in appendix_a(blocks, case, *batch, smoothness, per_sample=curvature == "sample")]


def shift(network: torch.nn.Module, steps: list[Tensor]) -> None:
    parameters = [p for p in network.parameters() if p.requires_grad]
    pieces = torch.cat(steps).split([p.numel() for p in parameters])
    with torch.no_grad():
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.add_(piece.view(parameter.shape))


@pytest.mark.parametrize(
    ("name", "inner_steps"), [("tanh", 1), ("tanh", 7), ("softplus", 4), ("logistic", 1), ("parameter-free", 2)]
)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_the_rounds_are_those_of_algorithm_1_in_dense_algebra(name: str, curvature: str, inner_steps: int) -> None:
    case = BY_NAME[name]
    found = try_it(case, curvature, inner_steps, rounds=2)
    network, (inputs, targets) = case.network(), case.batch()
    for each in found.rounds:
        blocks = layer_blocks(network)
        matrices, slopes = dense_blocks(blocks, case, curvature), gradients(blocks, case, inputs, targets)
        largest = max(float(torch.linalg.eigvalsh(matrix)[-1]) for matrix in matrices)
        assert each.smoothness == pytest.approx(theorem.MARGIN * largest, rel=1e-7)
        assert found.smoothness >= each.smoothness
        assert each.gradient_square == pytest.approx(float(torch.cat(slopes).square().sum()), rel=1e-9)
        here = float(reference_mean_loss(case.loss, run(blocks, inputs, [b.vector() for b in blocks]), targets))
        assert each.loss == pytest.approx(here, rel=1e-12)
        steps = [torch.zeros_like(slope) for slope in slopes]
        for _ in range(inner_steps):
            steps = [
                step - (slope + matrix @ step) / found.smoothness
                for step, slope, matrix in zip(steps, slopes, matrices, strict=True)
            ]
        values = [
            slope.dot(step) + 0.5 * step.dot(matrix @ step)
            for step, slope, matrix in zip(steps, slopes, matrices, strict=True)
        ]
        assert each.promised == pytest.approx(-float(sum(values)), rel=1e-8)
        shift(network, steps)
        blocks = layer_blocks(network)
        there = float(reference_mean_loss(case.loss, run(blocks, inputs, [b.vector() for b in blocks]), targets))
        assert each.new_loss == pytest.approx(there, rel=1e-11)
        assert each.is_bounded == (there <= here + float(sum(values)) + 1e-13)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", ["tanh", "softplus"])
def test_the_line_is_above_wherever_the_proofs_premises_hold(name: str, curvature: str) -> None:
    found = try_it(BY_NAME[name], curvature, inner_steps=3, rounds=12, lanczos_steps=15)
    assert found.local_failures == 0
    assert found.smoothness >= max(each.smoothness for each in found.rounds)
    assert found.descent_failures <= found.bound_failures
    assert found.above_line == 0
    assert curvature == "factor" or found.bound_failures == 0
    squares = [each.gradient_square for each in found.rounds]
    start = found.rounds[0].loss
    for count, least, line in zip(itertools.count(1), found.least, found.line, strict=False):
        assert least == min(squares[:count])
        assert line == pytest.approx(2 * found.smoothness * start / count)
    assert found.line[0] / found.speaks_from == pytest.approx(squares[0])


def test_rounds_are_the_minimizers_own() -> None:
    case, inner_steps = BY_NAME["tanh"], 5
    found = try_it(case, "sample", inner_steps, rounds=6)
    minimizer = SurrogateMinimizer(
        [case.network()], case.loss, preset="paper", curvature="sample", solver="gd", inner_steps=inner_steps,
        inner_learning_rate=1 / found.smoothness, eigenvalue="lanczos", power_steps=30,
    )  # fmt: skip
    for each in found.rounds:
        report = minimizer.step(*case.batch())
        assert report.loss == pytest.approx(each.loss, rel=1e-12)
        assert report.predicted_decrease == pytest.approx(each.promised, rel=1e-9)


def test_too_small_a_beta_is_found_and_all_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    monkeypatch.setattr(
        theorem, "largest_eigenvalue", lambda *given: largest_eigenvalue(*given) / (1000 if next(calls) < 4 else 1)
    )
    case = BY_NAME["tanh"]
    found, plain = try_it(case, "factor", rounds=4), try_it(case, "factor", rounds=4)
    assert found.restarts > 0
    assert found.rounds[0].loss == plain.rounds[0].loss
    assert found.smoothness >= max(each.smoothness for each in found.rounds)


def test_a_beta_that_is_too_small_breaks_the_proof_and_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theorem, "largest_eigenvalue", lambda *given: 0.1 * largest_eigenvalue(*given))
    found = try_it(BY_NAME["tanh"], "factor", rounds=5)
    assert found.local_failures > 0 and found.descent_failures > 0


def test_figures_of_a_run_are_counted_from_its_rounds() -> None:
    """β = 2, and by hand: g² / 2β is 1, 2 and 0.25, the line is 40 / T."""
    rounds = [
        TheoremRound(loss=10, gradient_square=4, smoothness=2, promised=1, new_loss=9),
        TheoremRound(loss=9, gradient_square=8, smoothness=2, promised=2.5, new_loss=6.75),
        TheoremRound(loss=6.75, gradient_square=1, smoothness=1, promised=0.2, new_loss=6.6),
    ]
    found = TheoremRun("factor", 1, 0, 2.0, 0, rounds)
    assert found.least == [4, 4, 1] and found.line == pytest.approx([40, 20, 40 / 3]) and found.above_line == 0
    assert found.speaks_from == 10
    assert [each.is_bounded for each in rounds] == [True, False, False]
    assert (found.bound_failures, found.local_failures, found.descent_failures) == (2, 1, 1)
    steep = replace(rounds[0], gradient_square=41)
    assert replace(found, rounds=[steep, replace(steep, gradient_square=40)]).above_line == 2


def test_local_losses_that_do_not_bound_show(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = GaussNewton.product
    monkeypatch.setattr(GaussNewton, "product", lambda self, v: 0.01 * plain(self, v))
    found = try_it(BY_NAME["softplus"], "factor", inner_steps=3, rounds=5)
    assert found.local_failures == 0 and found.bound_failures == 5


def test_what_is_left_behind_is_the_last_point() -> None:
    case = BY_NAME["softplus"]
    pipeline = InProcessPipeline([case.network()], case.loss)
    told: list[int] = []
    found = run_theorem(pipeline, *case.batch(), options("factor"), rounds=5, lanczos_steps=20, tell=told.append)
    assert expand(pipeline, *case.batch(), options("factor")).value == found.rounds[-1].new_loss
    assert told[-5:] == [1, 2, 3, 4, 5]


def test_nothing_to_descend_is_refused() -> None:
    case = BY_NAME["tanh"]
    network = case.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    network[-1].bias.requires_grad_(False)
    inputs, targets = case.batch()
    pipeline = InProcessPipeline([network], case.loss)
    with pytest.raises(ValueError, match="no step size 1/β"):
        run_theorem(pipeline, inputs, targets, options("factor"), rounds=1, lanczos_steps=5)
