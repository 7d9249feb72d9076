import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from surmin.experiments.checkpoint import Checkpoint

PARAMETERS = {"0.weight": torch.randn(3, 2, dtype=torch.float64), "0.bias": torch.randn(3, dtype=torch.float64)}
STATE: dict[str, Any] = {
    "length": 0.1,
    "round": 7,
    "name": "x",
    "nothing": None,
    "nested": {"old": [torch.randn(4), torch.tensor(2)], "empty": [], "flag": True},
}


def make_checkpoint() -> Checkpoint:
    return Checkpoint(7, "adam", PARAMETERS, STATE)


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second and type(first) is type(second))


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    make_checkpoint().save(path)
    loaded = Checkpoint.load(path)
    assert (loaded.round, loaded.method) == (7, "adam")
    assert equal(dict(loaded.parameters), PARAMETERS)
    assert equal(loaded.state, STATE)


def test_parameters_are_restored_in_place(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    make_checkpoint().save(path)
    parameters = {name: torch.zeros_like(value) for name, value in PARAMETERS.items()}
    loaded = Checkpoint.load(path)
    loaded.check("adam", parameters)
    loaded.restore(parameters)
    assert equal(parameters, PARAMETERS)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.6, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = tmp_path / "state.safetensors"
    make_checkpoint().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: math.floor(share * len(content))])
    with pytest.raises(ValueError, match=r"state.safetensors: not a checkpoint that can be read") as caught:
        Checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a checkpoint that can be read"):
        Checkpoint.load(tmp_path / "absent")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_file(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "state.safetensors"
    save_file(PARAMETERS, path, metadata)
    with pytest.raises(ValueError, match="not a checkpoint of surmin"):
        Checkpoint.load(path)


@pytest.mark.parametrize(
    "document",
    ["{", "[]", "{}", '{"round": 1, "method": "gd", "state": {"a": "tensor:method/9"}}',
     '{"round": -1, "method": "gd", "state": {}}', '{"round": 1, "method": "gd", "state": 3}'],
)  # fmt: skip
def test_a_damaged_document(tmp_path: Path, document: str) -> None:
    path = tmp_path / "state.safetensors"
    save_file(PARAMETERS, path, {"format": "surmin checkpoint 1", "surmin": document})
    with pytest.raises(ValueError, match="the checkpoint is damaged"):
        Checkpoint.load(path)


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("sgd", PARAMETERS, "of method adam, not sgd"),
        (
            "adam",
            {**PARAMETERS, "1.bias": torch.zeros(2)},
            "parameter 1.bias is missing there and float32 \\[2\\] here",
        ),
        ("adam", {"0.bias": PARAMETERS["0.bias"]}, "parameter 0.weight is float64 \\[3, 2\\] there and missing here"),
        (
            "adam",
            {**PARAMETERS, "0.bias": torch.zeros(4, dtype=torch.float64)},
            "float64 \\[3\\] there and float64 \\[4\\]",
        ),
        ("adam", {**PARAMETERS, "0.bias": torch.zeros(3)}, "float64 \\[3\\] there and float32 \\[3\\] here"),
    ],
)
def test_another_network_or_method(method: str, parameters: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_checkpoint().check(method, parameters)


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    make_checkpoint().save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        Checkpoint(8, "adam", PARAMETERS, {"unspeakable": object()}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
