"""Models and methods of one's own on the command line."""

import json
import sys
from pathlib import Path

import pytest

from surmin import cli
from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.configs.saved import document
from surmin.experiments.files import write_json
from surmin.methods.registry import build_method, find_method, takes
from surmin.own_code import load_own
from tests.methods.cases import make_batch, make_model, make_pipeline
from tests.own_modules import write_module

CODE = """
import torch
from surmin.methods.base import Stateless
from surmin.methods.common.loss_and_norm import own_report
from surmin.pipeline.step_meter import StepMeter


class SignDescent(Stateless):
    def __init__(self, pipeline, *, lr=0.01):
        self.pipeline, self.lr = pipeline, lr

    @torch.no_grad()
    def step(self, inputs, targets):
        meter = StepMeter(self.pipeline)
        with torch.enable_grad():
            wave = self.pipeline.forward(inputs, targets)
        gradients = self.pipeline.backward(wave)
        for stage, own in gradients.items():
            for layer, flat in zip(stage.layers, own, strict=True):
                for name, gradient in layer.unflatten(flat).items():
                    layer.parameters[name] -= self.lr * gradient.sign()
        return own_report(meter, self.pipeline, wave, gradients)


def build(input_shape, outputs, width):
    size = torch.Size(input_shape).numel()
    hidden = torch.nn.Linear(size, width), torch.nn.SiLU()
    return torch.nn.Sequential(torch.nn.Flatten(), *hidden, torch.nn.Linear(width, outputs))


def nothing(outputs):
    return None
"""
PROBLEM = ["--data", "digits", "--train-samples", "60", "--width", "7", "--rounds", "3"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    return write_module(CODE, tmp_path, monkeypatch, request)


def test_a_method_of_one_s_own(module: str) -> None:
    name = f"{module}:SignDescent"
    assert find_method(name).options == "lr" and takes(name, "lr") and not takes(name, "seed")
    method = build_method(name, make_pipeline(make_model()), lr=0.003)
    losses = [method.step(*make_batch()).loss for _ in range(9)]
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match="does not take inner_steps; it takes lr"):
        build_method(name, make_pipeline(make_model()), inner_steps=1)


def test_a_comparison_with_a_model_and_a_method_of_one_s_own(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--model", f"{module}:build", "--methods", f"sm,{module}:SignDescent", "--lr", f"{module}:SignDescent=0.002"]
    assert cli.main(["compare", *PROBLEM, *own, "--out", "made"]) == 0
    assert f"{module}:SignDescent" in capsys.readouterr().out
    made = {path.name for path in (tmp_path / "made" / "runs").iterdir()}
    assert made == {f"{module}.SignDescent-lr0.002-seed0", "sm-seed0"}
    assert f"{module}:build" in (tmp_path / "made" / "report.html").read_text()


def test_a_run_of_one_s_own_is_resumed_by_who_names_it_again(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--model", f"{module}:build", "--method", f"{module}:SignDescent"]
    assert cli.main(["train", *PROBLEM, *own, "--out", "made"]) == 0
    assert cli.main(["train", "--resume", "made", "--rounds", "5"]) == 2
    assert f"was made with --model {module}:build: pass it again" in capsys.readouterr().err
    assert cli.main(["train", "--resume", "made", "--rounds", "5", *own]) == 0
    rows = [json.loads(line) for line in Path("made/metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == list(range(6))


def test_methods_are_added_by_who_names_those_of_one_s_own_again(module: str) -> None:
    """Or leaves them out: what is not run need not be named."""
    own = f"{module}:SignDescent"
    Path("made").mkdir()
    write_json(Path("made/config.json"), document(CompareConfig(methods=f"{own},adam")))
    for methods in (f"{own},adam,sgd", f"sgd, {own}", "adam"):
        assert cli.parse(["compare", "--resume", "made", "--methods", methods])[1].config.methods == methods
    with pytest.raises(ValueError, match=f"made was made with --methods {own}: pass it again"):
        cli.parse(["compare", "--resume", "made", "--seeds", "2"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "nowhere:build"], "nowhere:build: no module 'nowhere' in "),
        (["--model", "{module}:absent"], "nothing is called 'absent' in "),
        (["--model", ":build"], "write module:name"),
        (["--model", ".nets:build"], "write module:name"),
        (["--model", "{module}:"], "write module:name"),
        (["--model", "{module}:nothing"], "must return a torch.nn.Module, it returned NoneType"),
        (["--model", "gtp"], "unknown model 'gtp': did you mean 'gpt'? choose mlp, cnn, gpt, or module:function"),
        (["--method", "nowhere:Method"], "nowhere:Method: no module 'nowhere' in "),
    ],
)
def test_what_is_not_there(module: str, capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    words = [word.replace("{module}", module) for word in words]
    assert cli.main(["train", *PROBLEM, *words, "--out", "made"]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("made").exists()


@pytest.mark.parametrize(
    ("code", "kind"), [("import not_there_either", ModuleNotFoundError), ("int('not_there_either')", ValueError)]
)
def test_what_goes_wrong_in_the_module_itself_is_raised_as_it_is(module: str, code: str, kind: type[Exception]) -> None:
    Path(f"{module}.py").write_text(code)
    with pytest.raises(kind, match="not_there_either"):
        load_own(f"{module}:build")


def test_the_working_folder_is_put_on_the_path_for_code_of_one_s_own_alone(module: str, tmp_path: Path) -> None:
    find_method("kfac").load()
    assert str(tmp_path) not in sys.path
    find_method(f"{module}:SignDescent").load()
    assert sys.path[-1] == str(tmp_path)
