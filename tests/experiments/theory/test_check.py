"""The check finds nothing on sound networks, and finds every mistake planted in one."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import surmin.upper_bound as upper_bound
from surmin.cli import main
from surmin.curvature.eigenvalue import power_iteration
from surmin.curvature.gauss_newton import GaussNewton
from surmin.curvature.hessian import LinearHessian
from surmin.curvature.scalar import ScalarCurvature
from surmin.experiments.theory import decoupled
from surmin.experiments.theory.check import CheckResult, check_network
from surmin.experiments.theory.dense import LARGEST_BLOCK, DenseNetwork, surrogate_hessian
from surmin.experiments.theory.expansion import block_expansions, exactly
from surmin.losses import CrossEntropy, GradientOracle, SquaredError
from surmin.options import OptionValues
from surmin.options.presets import resolve_options
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.linear import LinearAtPoint
from surmin.stages.partition import partition
from surmin.stages.stage import Stage
from surmin.upper_bound import output_curvature
from tests.cases import BY_NAME, CASES, Case
from tests.oracles import appendix_a, gauss_newton, layer_blocks, points


def check(case: Case, stages: int = 2, **options: object) -> CheckResult:
    options = {"trials": 5, **options}
    return check_network(partition(case.network(), stages), case.loss, *case.batch(), **options)  # type: ignore[arg-type]


def if_not_the_factor(curvature: str, **options: object) -> dict[str, object]:
    """Options that do nothing with the factor, and are refused with it."""
    return {} if curvature == "factor" else options


@pytest.mark.parametrize("curvature", ["factor", "sample"])
@pytest.mark.parametrize("case", [case for case in CASES if case.name != "attention"], ids=str)
def test_sound_networks_hold(case: Case, curvature: str) -> None:
    result = check(case, curvature=curvature, **if_not_the_factor(curvature, power_steps=60))
    assert result.holds
    sizes = [block.size for block in layer_blocks(case.network())]
    assert [block.parameters for block in result.blocks] == sizes
    for block in result.blocks:
        assert block.gradient_error < 1e-12 and block.block_error < 1e-12
    first, *others = result.blocks
    assert first.condition_1 is None and abs(first.condition_2) < 1e-9
    assert all(block.condition_1 is not None and block.condition_1 > -1e-9 for block in others)
    assert all(block.condition_2 > -1e-9 for block in others)
    assert (result.samples, result.curvature, result.dtype) == (6, curvature, "float64")


def test_attention_holds_too() -> None:
    assert check(BY_NAME["attention"], trials=2).holds


@pytest.mark.parametrize("options", [
    {"blocks": "stage"}, {"blocks": "stage", "curvature": "scalar"}, {"top_factor": "smoothness"},
    {"decoupling": [2.0, 6.0, 6.0, 6.0]}, {"curvature": "scalar", "delta_relative": 0.5}, {"cubic": 1.0},
], ids=str)  # fmt: skip
def test_other_local_losses_hold(options: OptionValues) -> None:
    assert check(BY_NAME["tanh"], **options).holds


@pytest.mark.parametrize("curvature", ["factor", "sample", "scalar"])
def test_what_is_judged_is_what_went_down(curvature: Literal["factor", "sample", "scalar"]) -> None:
    """One product finds no λ_max, so that another starting vector finds another number."""
    case = BY_NAME["tanh"]
    given = {"curvature": curvature, **if_not_the_factor(curvature, power_steps=1)}
    options = exactly(resolve_options("compute", given))
    pipeline = InProcessPipeline(partition(case.network(), 2), case.loss)
    expansions = block_expansions(pipeline, pipeline.forward(*case.batch()), options)
    for below, own in itertools.pairwise(expansions):
        sent = decoupled._below(own, output_curvature(options), options.seed, len(case.batch()[0]))
        assert sent is not None and torch.equal(sent, below.messages[0][0])
    assert decoupled._below(expansions[0], output_curvature(options), options.seed, len(case.batch()[0])) is None


def test_single_precision_is_judged_as_such() -> None:
    case = BY_NAME["tanh"]
    result = check_network([case.network(torch.float32)], case.loss, *case.batch(dtype=torch.float32), trials=3)
    assert result.holds
    assert result.dtype == "float32" and result.tolerance == 1e-3
    assert 1e-9 < max(block.block_error for block in result.blocks) < 1e-5


def test_layers_are_named_through_the_whole_network() -> None:
    assert [block.layers for block in check(BY_NAME["tanh"]).blocks] == [("0", "1"), ("2", "3"), ("4", "5"), ("6", "6")]


Plant = Callable[[pytest.MonkeyPatch], None]


def plant_product(patch: pytest.MonkeyPatch) -> None:
    plain = GaussNewton.product
    patch.setattr(GaussNewton, "product", lambda self, v: 1.001 * plain(self, v))


def plant_gradient(patch: pytest.MonkeyPatch) -> None:
    plain = Stage.backward
    patch.setattr(Stage, "backward", lambda self, *a: [1.001 * g for g in plain(self, *a)])


def plant_columns(patch: pytest.MonkeyPatch) -> None:
    plain = LinearAtPoint.input_vjp
    patch.setattr(LinearAtPoint, "input_vjp", lambda self, r: 0.9 * plain(self, r))


def plant_inflation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(upper_bound, "uniform_decoupling", lambda blocks: [blocks - 0.1] * blocks)


def plant_mixed_block(patch: pytest.MonkeyPatch) -> None:
    def without_e(self: LinearHessian, direction: Tensor) -> Tensor:
        return self._pull(self.d * (direction @ self.weight.t()))

    patch.setattr(LinearHessian, "mixed_transpose", without_e)


def plant_eigenvalue(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("surmin.curvature.scalar.power_iteration", lambda *a: 0.2 * power_iteration(*a))


def plant_delta(patch: pytest.MonkeyPatch) -> None:
    plain = ScalarCurvature.descend

    def generous(self: ScalarCurvature, *arguments: object) -> tuple:  # type: ignore[type-arg]
        own, below = plain(self, *arguments)  # type: ignore[arg-type]
        return own, [(0.5 * constant,) for (constant,) in below]

    patch.setattr(ScalarCurvature, "descend", generous)


@pytest.mark.parametrize(("plant", "curvature", "field"), [
    (plant_product, "factor", "block_error"), (plant_gradient, "factor", "gradient_error"),
    (plant_columns, "factor", "condition_1"), (plant_inflation, "factor", "condition_2"),
    (plant_mixed_block, "scalar", "block_error"), (plant_eigenvalue, "scalar", "condition_1"),
    (plant_delta, "scalar", "condition_1"),
], ids=lambda value: getattr(value, "__name__", value))  # fmt: skip
def test_planted_mistakes_are_found(plant: Plant, curvature: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"curvature": curvature, "trials": 2, **if_not_the_factor(curvature, delta=0.05)}
    assert check(BY_NAME["tanh"], **options).holds
    plant(monkeypatch)
    result = check(BY_NAME["tanh"], **options)
    assert not result.holds
    values = [value for value in (getattr(block, field) for block in result.blocks) if value is not None]
    assert max(values) > 1e-4 if "error" in field else min(values) < -1e-4


def test_a_planted_eigenvalue_shows_how_far_it_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_eigenvalue(monkeypatch)
    shortfalls = [
        block.eigenvalue_error for block in check(BY_NAME["tanh"], curvature="scalar", power_steps=300).blocks
    ]
    assert shortfalls[0] is None
    assert all(value == pytest.approx(0.8, abs=1e-3) for value in shortfalls[1:])


def test_the_bound_of_a_linear_network_never_fails_with_scalar_curvature() -> None:
    """Squared error and one linear layer: Ψ is h, so the bound is an equality."""
    network = nn.Sequential(nn.Linear(3, 2)).double()
    inputs, targets = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    for curvature in ("scalar", "factor"):
        result = check_network([network], SquaredError(), inputs, targets, curvature=curvature, trials=40)
        assert all(bound.failures == 0 for bound in result.bound)
        assert all(abs(bound.worst_excess) < 1e-12 for bound in result.bound)


def test_a_bound_that_cannot_hold_fails_almost_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the curvature of a network that is its own quadratic."""
    plain = GaussNewton.product
    monkeypatch.setattr(GaussNewton, "product", lambda self, v: 0.5 * plain(self, v))
    network = nn.Sequential(nn.Linear(3, 2)).double()
    inputs, targets = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    result = check_network([network], SquaredError(), inputs, targets, trials=40, radii=(0.1, 1.0))
    assert [(bound.radius, bound.trials, bound.failures) for bound in result.bound] == [(0.1, 40, 40), (1.0, 40, 40)]
    assert all(bound.worst_excess > 0 for bound in result.bound)


def test_a_radius_at_which_the_loss_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^radius 1e\+200: the loss or its bound is not finite so far away"):
        check(BY_NAME["tanh"], radii=(0.1, 1e200))


def test_a_cubic_term_makes_the_bound_safer() -> None:
    case = BY_NAME["parameter-free"]
    plain, cubic = check(case, trials=30), check(case, trials=30, cubic=100.0)
    failures = [sum(bound.failures for bound in result.bound if bound.radius >= 0.1) for result in (plain, cubic)]
    assert failures[0] > 0 and failures[1] == 0


def test_the_network_is_left_as_it_was() -> None:
    case = BY_NAME["tanh"]
    network = case.network(torch.float32)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    check_network([network], case.loss, *case.batch(dtype=torch.float32), trials=2)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_results_depend_on_the_seed_alone() -> None:
    first, again, other = (check(BY_NAME["tanh"], seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.bound != other.bound


@pytest.mark.parametrize("case", [BY_NAME["tanh"], BY_NAME["convolution"], BY_NAME["embedding"]], ids=str)
def test_the_dense_references_agree_with_the_tests_own_oracles(case: Case) -> None:
    network, batch = case.network(), case.batch()
    dense, blocks = DenseNetwork.of([network], case.loss, *batch, "layer"), layer_blocks(network)
    by_parameters, _ = dense.jacobians()
    hessians = dense.loss_hessians()
    exact = gauss_newton(blocks, case, *batch)
    outputs = points(blocks, batch[0])[-1]
    scalar = appendix_a(blocks, case, *batch, case.loss.smoothness(outputs), per_sample=False)
    for i, found in enumerate(by_parameters):
        matrix = torch.einsum("ncp,nce,neq->pq", found, hessians, found) / 6
        torch.testing.assert_close(matrix, exact[i][i])
    last = surrogate_hessian(dense.blocks[-1], dense.points[-2], 6 * _slope(case, outputs, batch[1]), scalar[-1].above)
    torch.testing.assert_close(last.tt / 6, scalar[-1].tt)


def _slope(case: Case, outputs: Tensor, targets: Tensor) -> Tensor:
    return case.loss.gradient(outputs, targets) / len(outputs)


def test_too_large_a_network_is_refused_with_the_limit() -> None:
    wide = nn.Sequential(nn.Linear(50, 41), nn.Linear(41, 2))
    with pytest.raises(ValueError, match=rf"layers 0 to 0 have 2,091 parameters, more than the {LARGEST_BLOCK:,} that"):
        check_network([wide], CrossEntropy(), torch.randn(4, 50), torch.zeros(4, dtype=torch.int64))
    narrow = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 10))
    with pytest.raises(
        ValueError, match=r"Jacobians of .* have [\d,]+ numbers, more than the 20,000,000 that are kept"
    ):
        check_network([narrow], CrossEntropy(), torch.randn(3000, 30), torch.zeros(3000, dtype=torch.int64))


@pytest.mark.parametrize(("options", "message"), [
    ({"trials": 0}, "trials must be at least 1"), ({"radii": ()}, "radii must be"),
    ({"radii": (-1.0,)}, "radii must be"),
    ({"curvature": "none"}, "curvature must be one of"), ({"decoupling": [2.0, 2.0]}, "got 2 for 4 blocks"),
], ids=str)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(BY_NAME["tanh"], **options)


def test_a_loss_without_a_value_cannot_be_bounded() -> None:
    case = BY_NAME["softplus"]
    with pytest.raises(ValueError, match="the loss is nan"):
        check_network([case.network()], GradientOracle(lambda z, y: z - y, 1.0), *case.batch())


def test_bad_batches_are_refused() -> None:
    case = BY_NAME["tanh"]
    inputs, targets = case.batch()
    with pytest.raises(ValueError, match="labels run"):
        check_network([case.network()], case.loss, inputs, targets + 5)
    with pytest.raises(ValueError, match="NaN"):
        check_network([case.network()], case.loss, inputs * math.nan, targets)


def test_what_was_found_as_plain_values() -> None:
    result = check(BY_NAME["tanh"])
    read = json.loads(json.dumps(result.to_json()))
    assert read["holds"] is True
    assert [block["parameters"] for block in read["blocks"]] == [25, 30, 24, 15]
    assert [bound["radius"] for bound in read["bound"]] == [0.001, 0.01, 0.1, 0.3, 1.0]
    assert all(bound["trials"] == 5 for bound in read["bound"])
    assert read["blocks"][0]["condition_1"] is None


@pytest.mark.parametrize("options", [[], ["--curvature", "scalar", "--eigenvalue", "lanczos"]], ids=str)
def test_the_command(options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "check"
    words = ["check", "--train-samples", "6", "--width", "4", "--trials", "3", *options, "--out", str(folder)]
    assert main(words) == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    assert "gradients, blocks and Lemma 1 hold" in output and "bound failed" in output
    read = json.loads((folder / "check.json").read_text())
    assert read["command"] == "check" and read["options"]["width"] == 4 and read["samples"] == 6
    assert main(words) == 2
    assert "is not empty" in capfd.readouterr().err


def test_the_command_says_when_something_is_wrong(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_product(monkeypatch)
    assert main(["check", "--train-samples", "6", "--width", "4", "--trials", "2", "--out", str(tmp_path / "a")]) == 1
    assert "do NOT hold" in capfd.readouterr().out
    assert json.loads((tmp_path / "a" / "check.json").read_text())["holds"] is False


def test_too_few_power_steps_break_lemma_1_and_the_command_says_what_to_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [
        "check",
        "--train-samples",
        "6",
        "--width",
        "4",
        "--curvature",
        "scalar",
        "--power-steps",
        "1",
        "--trials",
        "1",
    ]
    assert main([*words, "--out", str(tmp_path / "a")]) == 1
    assert "is underestimated: try more --power-steps" in capfd.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    (["--width", "64"], "more than the 2,000 that dense matrices are made of"), (["--trials", "0"], "trials must be"),
    (["--radii", "1e200"], "radius 1e+200: the loss or its bound is not finite"),
    (["--layers", "0"], "layers must be at least 1"), (["--curvature", "zzz"], "curvature"), (["--rank", "2"], "rank"),
], ids=str)  # fmt: skip
def test_the_command_refuses_in_one_line(
    words: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *words, "--out", str(tmp_path / "check")]) == 2
    errors = capfd.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert not (tmp_path / "check").exists()
