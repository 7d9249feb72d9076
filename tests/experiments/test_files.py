from pathlib import Path

import pytest

from surmin.experiments.files import read_json, replacing, write_json, write_text


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_json(path, {"a": [1, 2]})
    assert read_json(path, dict) == {"a": [1, 2]}
    path.write_text("{")
    with pytest.raises(ValueError, match=r"file: cannot be read: "):
        read_json(path, dict)
    with pytest.raises(ValueError, match=r"absent: cannot be read: "):
        read_json(tmp_path / "absent", dict)
