import os
from datetime import datetime
from pathlib import Path

import pytest

from surmin.experiments.runs import folder as folder_module
from surmin.experiments.runs.folder import check_unclaimed, claim_folder, claimed, data_name, default_folder


class StoppedClock(datetime):
    """It is always the same second."""

    @classmethod
    def now(cls, tz: object = None) -> "StoppedClock":
        return cls(2024, 5, 6, 7, 8, 9)


def test_folders_of_one_second_have_different_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder_module, "datetime", StoppedClock)
    names = []
    for process in (41, 42, 42, 42):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        path = default_folder("sm", "some/digits.npz")
        assert not path.exists()
        claim_folder(path)
        names.append(path.name)
    assert names == [f"sm-digits-20240506-070809-{ending}" for ending in ("41", "42", "42-2", "42-3")]


@pytest.mark.parametrize(("data", "name"), [
    ("digits", "digits"), ("mnist", "mnist"), ("a/v1.2.npz", "v1.2"), ("faces-v1.1", "faces-v1.1"),
    ("a/faces-v1.2/", "faces-v1.2"), (".", "here"), ("..", "home"), ("~", "home"), ("~/faces.2", "faces.2"),
])  # fmt: skip
def test_data_is_called_by_a_name_of_its_own(
    data: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "home" / "here"
    here.mkdir(parents=True)
    (here / "mnist").symlink_to(tmp_path)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here.parent))
    assert data_name(data) == name
    assert default_folder("sm", data).name.startswith(f"sm-{name}-2")


@pytest.mark.parametrize("name", ["notes.txt/map", "notes.txt/several/more"])
def test_a_folder_that_cannot_be_made_is_refused_beforehand(tmp_path: Path, name: str) -> None:
    notes = tmp_path / "notes.txt"
    notes.touch()
    with pytest.raises(ValueError, match=f"cannot be made, {notes} is a file: name another folder with --out"):
        check_unclaimed(tmp_path / name)


@pytest.mark.parametrize("name", ["", "map", "several/more"])
def test_a_folder_is_refused_beforehand_where_nothing_may_be_written(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_unclaimed(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ValueError, match=f"nothing may be written in {tmp_path}: name another folder with --out"):
        check_unclaimed(tmp_path / name)


def test_a_claimed_folder_that_stays_empty_is_removed_if_it_was_made(tmp_path: Path) -> None:
    claimed_in_vain, there, written = tmp_path / "some" / "more", tmp_path / "there", tmp_path / "written" / "to"
    there.mkdir()
    for path in (claimed_in_vain, there, written):
        with pytest.raises(KeyboardInterrupt), claimed(path):
            if path == written:
                (path / "table").touch()
            raise KeyboardInterrupt
    assert {path.name for path in tmp_path.rglob("*")} == {"there", "written", "to", "table"}
