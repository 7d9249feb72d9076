import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from surmin.experiments.configs.run import ExperimentConfig
from surmin.experiments.runs.losses import are_right, make_loss
from surmin.experiments.runs.problem import load_data
from surmin.experiments.runs.team import ALONE
from surmin.losses import ConvexLoss, CrossEntropy, LogisticLoss, SquaredError
from tests.experiments.runs.cases import resume, rows_of, save_regression, start, tiny_run
from tests.own_modules import write_module

CODE = """
import surmin


class Own(surmin.SquaredError):
    pass


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def check(self, outputs, targets):
        pass


def make():
    return surmin.SquaredError()


def half():
    return Scaled(0.5)


own = surmin.SquaredError()
oracle = surmin.GradientOracle(lambda outputs, targets: outputs - targets, 1.0)
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    return write_module(CODE, tmp_path, monkeypatch, request)


@pytest.mark.parametrize(
    ("name", "kind"), [("cross-entropy", CrossEntropy), ("squared", SquaredError), ("logistic", LogisticLoss)]
)
def test_losses_by_name(name: str, kind: type[ConvexLoss]) -> None:
    assert type(make_loss(name)) is kind


@pytest.mark.parametrize("own", ["own", "Own", "make"])
def test_a_loss_of_one_s_own_is_an_instance_a_class_or_a_function(module: str, tmp_path: Path, own: str) -> None:
    data = save_regression(tmp_path)
    for name, loss in (("theirs", f"{module}:{own}"), ("ours", "squared")):
        start(tiny_run(data=data, train_samples=None, loss=loss), tmp_path / name).train()
    assert rows_of(tmp_path / "theirs") == rows_of(tmp_path / "ours")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("number", "must be, or return, a loss by the protocol surmin.ConvexLoss: int has no check, sample_losses"),
        ("half", "ConvexLoss: Scaled has no sample_losses, gradient, smoothness, trace, factor, sampled_factor"),
        ("Scaled", "Scaled is called without arguments to make the loss: missing a required argument: 'scale'"),
        ("oracle", "oracle is a gradient oracle, which has no loss to report"),
        ("nothing", "nothing is called 'nothing' in "),
    ],
)
def test_what_is_no_loss_is_refused(module: str, own: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_loss(f"{module}:{own}")


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_labels_become_one_hot(loss: str) -> None:
    labels = load_data(ExperimentConfig(), ALONE)
    data = load_data(ExperimentConfig(loss=loss, dtype="float64"), ALONE)
    assert (data.classes, data.outputs) == (10, 10)
    for numbers, own in ((data.train_targets, labels.train_targets), (data.test_targets, labels.test_targets)):
        assert numbers.dtype == torch.float64 and numbers.shape == (len(own), 10)
        assert torch.equal(numbers.argmax(-1), own) and bool((numbers.sum(-1) == 1).all())


def test_tokens_become_one_hot_too() -> None:
    data = load_data(ExperimentConfig(data="text", model="gpt", train_samples=2, loss="squared"), ALONE)
    assert data.train_targets.shape == (2, 64, data.classes) and data.outputs == data.classes


def test_a_loss_of_one_s_own_gets_targets_as_they_are(module: str) -> None:
    data = load_data(ExperimentConfig(loss=f"{module}:own"), ALONE)
    assert torch.equal(data.train_targets, load_data(ExperimentConfig(), ALONE).train_targets)


@pytest.mark.parametrize(
    ("loss", "changes", "message"),
    [
        ("cross-entropy", {}, r"numbers.npz: y_train has floating-point .* give --loss squared"),
        ("logistic", {}, r"numbers.npz: logistic targets must lie in \[0, 1\], got -"),
        ("logistic", {"y_train": np.ones((40, 2)), "y_test": np.full((12, 2), 1.5)}, "got 1.5 to 1.5"),
    ],
)
def test_targets_that_a_loss_cannot_take(
    tmp_path: Path, loss: str, changes: dict[str, NDArray[Any]], message: str
) -> None:
    config = ExperimentConfig(data=save_regression(tmp_path, **changes), loss=loss)
    with pytest.raises(ValueError, match=message):
        load_data(config, ALONE)


def test_the_largest_output_is_right_where_the_label_is() -> None:
    outputs = torch.tensor([[0.1, 0.9, 0.3], [2.0, 1.0, 0.0]])
    for targets in (torch.tensor([1, 1]), torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])):
        assert are_right(outputs, targets).tolist() == [True, False]


def test_a_regression_has_a_test_loss(tmp_path: Path) -> None:
    run = start(tiny_run(data=save_regression(tmp_path), train_samples=None, loss="squared"), tmp_path / "run")
    assert run.train() == "finished"
    data, network = run.problem.data, torch.nn.Sequential(*run.problem.modules)

    def loss(inputs: Tensor, targets: Tensor) -> float:
        return 0.5 * (network(inputs) - targets).square().sum(-1).mean().item()

    assert data.outputs == 2
    first, *_, last = rows_of(tmp_path / "run")
    assert last.test_accuracy is None and last.loss is not None and first.loss is not None and last.loss < first.loss
    assert (last.loss, last.test_loss) == pytest.approx(
        (loss(data.train_inputs, data.train_targets), loss(data.test_inputs, data.test_targets)), rel=1e-12
    )


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_one_hot_targets_have_an_accuracy(tmp_path: Path, loss: str) -> None:
    run = start(tiny_run(method="sm", loss=loss), tmp_path / "run")
    run.train()
    data, network = run.problem.data, torch.nn.Sequential(*run.problem.modules)
    right = network(data.test_inputs).argmax(-1) == data.test_targets.argmax(-1)
    last = rows_of(tmp_path / "run")[-1]
    assert last.test_loss is None and last.test_accuracy == pytest.approx(float(right.double().mean()))


def test_many_numbers_get_random_columns(tmp_path: Path) -> None:
    wide = {"y_train": np.random.default_rng(0).normal(size=(40, 1100)), "y_test": np.zeros((12, 1100))}
    config = tiny_run(data=save_regression(tmp_path, **wide), train_samples=None, loss="squared", rounds=1)
    assert start(config, tmp_path / "run").train() == "finished"


def test_a_resumed_regression_is_the_uninterrupted_one(tmp_path: Path) -> None:
    options = {"data": save_regression(tmp_path), "train_samples": None, "loss": "squared", "method": "adam"}
    start(tiny_run(**options), tmp_path / "whole").train()
    start(tiny_run(**options, rounds=2), tmp_path / "part").train()
    assert resume(tmp_path / "part", rounds=4).train() == "finished"
    assert rows_of(tmp_path / "part") == rows_of(tmp_path / "whole")


def test_the_loss_cannot_change(tmp_path: Path) -> None:
    start(tiny_run(loss="squared", rounds=1), tmp_path / "run").train()
    with pytest.raises(ValueError, match="--loss cannot change on resuming: the run has squared, not logistic"):
        resume(tmp_path / "run", loss="logistic")


def test_a_network_whose_outputs_do_not_fit_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import torch\n\n\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(4, 3))\n"
    (tmp_path / "threeoutputs.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    data = save_regression(tmp_path)
    config = tiny_run(data=data, train_samples=None, loss="squared", model="threeoutputs:build", stages=1)
    with pytest.raises(ValueError, match=r"targets of shape \(40, 2\) do not fit outputs of shape \(40, 3\)"):
        start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
