import dataclasses
import os
from pathlib import Path

import pytest
import torch

from surmin.data import DataError, load_dataset


def test_an_unknown_source_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data 'cifar': give digits, mnist, text, a folder of IDX files or an .npz"):
        load_dataset("cifar")
    (tmp_path / "data.csv").touch()
    with pytest.raises(DataError, match=r"data.csv'"):
        load_dataset(str(tmp_path / "data.csv"))


def test_a_data_dir_that_nothing_would_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data_dir is for the sources mnist and text, 'digits' does not use it"):
        load_dataset("digits", data_dir=tmp_path)


def test_the_type_of_inputs() -> None:
    assert load_dataset("digits", dtype=torch.float64).train_inputs.dtype == torch.float64
    with pytest.raises(DataError, match="dtype must be a floating-point type"):
        load_dataset("digits", dtype=torch.int64)


def test_a_dataset_cannot_be_reassigned() -> None:
    dataset = load_dataset("digits")
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.classes = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("source", "data_dir", "named"),
    [("~nobody-here", None, None), ("text", "~nobody-here", None), ("mnist", None, "~nobody-here")],
)
def test_the_home_of_nobody(
    source: str, data_dir: str | None, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURMIN_DATA", named or "")
    with pytest.raises(DataError, match=r"^~nobody-here: "):
        load_dataset(source, data_dir=data_dir)


def test_a_cache_where_nobody_has_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SURMIN_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(DataError, match=r"^~/\.cache: "):
        load_dataset("mnist")
