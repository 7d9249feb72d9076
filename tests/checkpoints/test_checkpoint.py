import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from surmin.checkpoints.checkpoint import Checkpoint
from surmin.checkpoints.round_folder import newest_round
from surmin.checkpoints.saving import load_checkpoint, load_parameters, save_checkpoint
from surmin.methods.registry import build_method
from surmin.stages.partition import partition
from tests.experiments.runs.cases import contents
from tests.experiments.runs.states import equal
from tests.methods.cases import make_model, make_pipeline

PARAMETERS = {"0.weight": torch.randn(3, 2, dtype=torch.float64), "0.bias": torch.randn(3, dtype=torch.float64)}
STATE: dict[str, Any] = {
    "length": 0.1,
    "round": 7,
    "name": "x",
    "nothing": None,
    "not a number": math.nan,
    "nested": {"old": [torch.randn(4), torch.tensor(2)], "empty": [], "none of it": torch.zeros(0), "flag": True},
    "by name": {"0.weight": {"step": torch.tensor(3.0)}, "0.bias": [torch.randn(3, 2).T, 1]},
}
FILE = Path("round-000007") / "shard-00001-model-00001-of-00001.safetensors"


def make_checkpoint(round: int = 7) -> Checkpoint:
    return Checkpoint(round, "adam", PARAMETERS, STATE)


def document_of(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(load_file(path)["worker/0"].numpy().tobytes())
    return document


def rewrite(path: Path, document: str) -> None:
    tensors = {**load_file(path), "worker/0": torch.tensor(list(document.encode()), dtype=torch.uint8)}
    save_file(tensors, path)


def test_saved_and_loaded(tmp_path: Path) -> None:
    make_checkpoint().save(tmp_path, None)
    loaded = Checkpoint.load(tmp_path)
    assert (loaded.round, loaded.method) == (7, "adam")
    assert equal(dict(loaded.parameters), PARAMETERS)
    assert equal(loaded.state, STATE)
    assert list(contents(tmp_path)) == [str(FILE)]


def test_only_what_belongs_to_the_names_is_loaded(tmp_path: Path) -> None:
    make_checkpoint().save(tmp_path, None)
    loaded = Checkpoint.load(tmp_path, ["0.bias", "9.bias"])
    assert loaded.parameters.keys() == {"0.bias"}
    assert equal(loaded.state, {**STATE, "by name": {"0.bias": STATE["by name"]["0.bias"]}})


def test_the_newest_round_is_kept(tmp_path: Path) -> None:
    for number in (7, 8, 1_000_000):
        make_checkpoint(number).save(tmp_path, None)
        assert Checkpoint.load(tmp_path).round == number
    assert [path.name for path in tmp_path.iterdir()] == ["round-1000000"]


def test_a_round_that_is_written_again_replaces_the_first(tmp_path: Path) -> None:
    make_checkpoint().save(tmp_path, None)
    Checkpoint(7, "adam", {"0.weight": torch.ones(2)}, {}).save(tmp_path, None)
    assert equal(dict(Checkpoint.load(tmp_path).parameters), {"0.weight": torch.ones(2)})
    assert list(contents(tmp_path)) == [str(FILE)]


def test_a_method_may_be_saved_again_at_the_same_round_but_not_at_an_earlier_one(tmp_path: Path) -> None:
    method = build_method("sgd", make_pipeline(make_model()))
    for _ in range(2):
        save_checkpoint(tmp_path, method, 3)
    with pytest.raises(ValueError, match="is of a later round than 2"):
        save_checkpoint(tmp_path, method, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["round-000003"]


def test_arguments_that_are_something_else(tmp_path: Path) -> None:
    model = make_model()
    method: Any = build_method("sgd", make_pipeline(model))
    takes = "takes the path of a folder, then a SurrogateMinimizer or another method"
    swapped = f"{type(method).__name__} and str"
    for folder, minimizer, found in ((tmp_path, model, "Path and Sequential"), (method, "ck", swapped)):
        with pytest.raises(TypeError, match=rf"^save_checkpoint.* {takes} .*{found}$"):
            save_checkpoint(folder, minimizer, 1)
        with pytest.raises(TypeError, match=rf"^load_checkpoint.* {takes} .*{found}$"):
            load_checkpoint(folder, minimizer, missing_ok=True)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    method = build_method("sgd", make_pipeline(make_model()))
    (tmp_path / "ck").write_text("")
    with pytest.raises(ValueError, match="ck is a file: give the folder"):
        load_checkpoint(tmp_path / "ck", method, missing_ok=True)
    with pytest.raises(ValueError, match="ck is a file: give the folder"):
        save_checkpoint(tmp_path / "ck", method, 1)


@pytest.mark.parametrize(("is_frozen", "trainable"), [(True, 2), (False, 4)])
def test_a_checkpoint_with_more_than_trains_here(tmp_path: Path, is_frozen: bool, trainable: int) -> None:
    """Layers that are frozen would stay as they are, those that are not there would be forgotten."""
    save_checkpoint(tmp_path, build_method("sgd", make_pipeline(make_model())), 3)
    model = make_model(seed=1)
    if is_frozen:
        model[:-1].requires_grad_(False)
    method = build_method("sgd", make_pipeline(model if is_frozen else model[:-1], stages=1))
    before = {name: value.detach().clone() for name, value in method.pipeline.parameters.items()}
    with pytest.raises(ValueError, match=f"the checkpoint has 6 parameters, and {trainable} train here: it is of"):
        load_checkpoint(tmp_path, method)
    assert equal(before, method.pipeline.parameters)


def test_a_round_goes_before_the_one_that_it_replaced(tmp_path: Path) -> None:
    for name in ("round-000005", "round-000005.replaced", "round-000004", "round-000009-replaced"):
        (tmp_path / name).mkdir()
    assert newest_round(tmp_path) == tmp_path / "round-000005"


def test_a_crash_before_a_round_that_is_written_again_has_replaced_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def crash(path: Path, target: Path) -> Path:
        if path.name.endswith(".unfinished"):
            raise KeyboardInterrupt
        return rename(path, target)

    def save(value: float) -> None:
        Checkpoint(7, "adam", {"0.weight": torch.full((2,), value)}, {}).save(tmp_path, None)

    save(1.0)
    for value in (2.0, 3.0):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "rename", crash)
            save(value)
        assert not (tmp_path / "round-000007").exists()
        loaded = Checkpoint.load(tmp_path)
        assert loaded.round == 7 and equal(dict(loaded.parameters), {"0.weight": torch.ones(2)})
    save(4.0)
    assert list(contents(tmp_path)) == [str(FILE)]
    assert equal(dict(Checkpoint.load(tmp_path).parameters), {"0.weight": torch.full((2,), 4.0)})


def test_what_a_crash_left_is_not_read_and_not_mixed_in(tmp_path: Path) -> None:
    make_checkpoint(6).save(tmp_path, None)
    for left in (tmp_path / "round-000007.unfinished", tmp_path / "round-000009.unfinished"):
        left.mkdir()
        save_file({"1.weight": torch.zeros(2), "worker/1": torch.zeros(2)}, left / "shard-00002.safetensors")
    (tmp_path / "notes.txt").write_text("mine")
    assert Checkpoint.load(tmp_path).round == 6
    make_checkpoint(7).save(tmp_path, None)
    assert Checkpoint.load(tmp_path).parameters.keys() == PARAMETERS.keys()
    assert sorted(contents(tmp_path)) == ["notes.txt", str(FILE)]


def test_a_crash_before_older_rounds_are_removed(tmp_path: Path) -> None:
    make_checkpoint(7).save(tmp_path / "new", None)
    make_checkpoint(6).save(tmp_path, None)
    (tmp_path / "new" / "round-000007").rename(tmp_path / "round-000007")
    assert Checkpoint.load(tmp_path).round == 7


def test_nothing_is_pickled_or_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("pickle is used")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "dump"), (pickle, "dumps"),
                         (pickle, "Unpickler"), (pickle, "Pickler"), (torch, "load"), (torch, "save")]:  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    make_checkpoint().save(tmp_path, None)
    assert equal(Checkpoint.load(tmp_path).state, STATE)


def test_parameters_are_restored_in_place(tmp_path: Path) -> None:
    make_checkpoint().save(tmp_path, None)
    parameters = {name: torch.zeros_like(value) for name, value in PARAMETERS.items()}
    loaded = replace(Checkpoint.load(tmp_path), state={"length": 0.1})
    loaded.check(parameters)
    loaded.restore(parameters)
    assert equal(parameters, PARAMETERS)


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"damping": math.nan}, "damping"),
        ({"length": math.inf}, "length"),
        ({"memory": {"0.weight": {"exp_avg": torch.tensor([1.0, math.nan])}}}, "memory/0.weight/exp_avg"),
        ({"nested": [1, {"deep": (0.5, -math.inf)}]}, "nested/1/deep/1"),
    ],
)
def test_what_the_method_remembers_must_be_finite(state: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=f"damaged: {place} of what the method remembers is not finite"):
        Checkpoint(7, "adam", PARAMETERS, state).check(PARAMETERS)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.6, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    make_checkpoint().save(tmp_path, None)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: math.floor(share * len(content))])
    with pytest.raises(ValueError, match=rf"{FILE}: not a checkpoint that can be read") as caught:
        Checkpoint.load(tmp_path, names=())
    assert "\n" not in str(caught.value)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint in it"):
        Checkpoint.load(tmp_path / "absent")
    (tmp_path / "round-000001.unfinished").mkdir()
    with pytest.raises(ValueError, match="no checkpoint in it"):
        Checkpoint.load(tmp_path)


def test_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "round-000007").mkdir()
    save_file(PARAMETERS, tmp_path / FILE, {"format": "pt"})
    with pytest.raises(ValueError, match="round-000007: not a checkpoint that can be read: the part of worker 0 is"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    ["{", "[]", "{}", {"state": {"a": "tensor:method/9"}}, {"round": -1}, {"round": "1"}, {"state": 3}, {"workers": 2},
     {"workers": None}, {"format": "surmin checkpoint 2"}, pytest.param("[" * 100_000, id="too deep")],
)  # fmt: skip
def test_a_damaged_document(tmp_path: Path, change: str | dict[str, Any]) -> None:
    make_checkpoint().save(tmp_path, None)
    document = change if isinstance(change, str) else json.dumps({**document_of(tmp_path / FILE), **change})
    rewrite(tmp_path / FILE, document)
    with pytest.raises(ValueError, match=r"round-000007: not a checkpoint that can be read: ") as caught:
        Checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({**PARAMETERS, "1.bias": torch.zeros(2)}, r"parameter 1.bias is missing there and float32 \[2\] here"),
        ({"0.bias": PARAMETERS["0.bias"]}, r"parameter 0.weight is float64 \[3, 2\] there and missing here"),
        ({**PARAMETERS, "0.bias": torch.zeros(4, dtype=torch.float64)}, r"float64 \[3\] there and float64 \[4\]"),
        ({**PARAMETERS, "0.bias": torch.zeros(3)}, r"float64 \[3\] there and float32 \[3\] here"),
    ],
)
def test_another_network(parameters: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_checkpoint().check(parameters)


def test_another_method() -> None:
    with pytest.raises(ValueError, match="of method adam, not sgd"):
        make_checkpoint().check_method("sgd")


@pytest.mark.parametrize("cut", [1, 2])
def test_a_network_is_loaded_whatever_method_trained_it(tmp_path: Path, cut: int) -> None:
    trained, other = make_model(), make_model()
    method = build_method("adam", make_pipeline(trained))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.5)
    save_checkpoint(tmp_path, method, 3)
    assert load_parameters(tmp_path, partition(other, cut)) == 3
    assert all(torch.equal(*pair) for pair in zip(trained.parameters(), other.parameters(), strict=True))


def test_a_network_that_is_another_or_frozen_keeps_its_parameters(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, build_method("adam", make_pipeline(make_model())), 3)
    with pytest.raises(ValueError, match="no checkpoint in it"):
        load_parameters(tmp_path / "elsewhere", make_model())
    longer = torch.nn.Sequential(*make_model(), torch.nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match="of another network: parameter"):
        load_parameters(tmp_path, longer)
    frozen = make_model()
    frozen[-1].requires_grad_(False)
    with pytest.raises(ValueError, match="some are frozen here"):
        load_parameters(tmp_path, frozen)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"unspeakable": object()}, TypeError),
        ({"a": {"b": torch.ones(1)}, "a/b": torch.ones(1)}, ValueError),
        ({"a": ["tensor:a"]}, ValueError),
        ({"a": {1: 0.5}}, ValueError),
    ],
)
def test_a_state_that_cannot_be_saved_leaves_the_last_checkpoint(
    tmp_path: Path, state: dict[str, Any], error: type[Exception]
) -> None:
    make_checkpoint().save(tmp_path, None)
    before = contents(tmp_path)
    with pytest.raises(error):
        Checkpoint(8, "adam", PARAMETERS, state).save(tmp_path, None)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("call", ["surmin.checkpoints.round_folder.sync_folder", "os.fsync"])
def test_a_disk_that_fails_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("No space left on device")

    make_checkpoint().save(tmp_path, None)
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(OSError, match=r"^No space left on device$"):
            make_checkpoint(8).save(tmp_path, None)
    assert Checkpoint.load(tmp_path).round == 7
    make_checkpoint(9).save(tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["round-000009"]


def test_a_checkpoint_of_numbers_that_are_not_finite_is_damaged() -> None:
    parameters = {"0.weight": torch.tensor([1.0, float("nan")])}
    with pytest.raises(ValueError, match=r"damaged: parameter 0.weight is not finite"):
        Checkpoint(3, "sm", parameters, {}).check(parameters)


def test_a_round_under_another_name_is_refused(tmp_path: Path) -> None:
    Checkpoint(3, "sm", {"0.weight": torch.ones(2)}, {}).save(tmp_path, None)
    (tmp_path / "round-000003").rename(tmp_path / "round-000005")
    with pytest.raises(ValueError, match="it says that it is of round 3"):
        Checkpoint.load(tmp_path)


def test_of_two_checkpoints_that_which_was_agreed_on_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may save meanwhile; here what it saves cannot even be read."""
    method = build_method("sgd", make_pipeline(make_model()))
    save_checkpoint(tmp_path, method, 3)

    def agree_on(_description: str) -> None:
        (tmp_path / "round-000004").mkdir()

    monkeypatch.setattr(method.pipeline, "agree_on", agree_on)
    assert load_checkpoint(tmp_path, method) == 3
