"""A command has its folder to itself before its work begins."""

from pathlib import Path

import pytest

from surmin.cli import main
from surmin.experiments.runs.folder import FolderInUseError, written_by_one


@pytest.mark.parametrize(
    ("command", "work"), [("check", "load_data"), ("theory", "try_theorem"), ("simulate", "measure_overheads")]
)
def test_a_folder_is_claimed_before_the_work_and_removed_if_that_fails(
    command: str, work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "some" / "folder"

    def fail(*_: object) -> None:
        with pytest.raises(FolderInUseError), written_by_one(folder):
            pass
        raise ValueError("the work failed")

    monkeypatch.setattr(f"surmin.commands.{command}.{work}", fail)
    assert main([command, "--out", str(folder)]) == 2
    assert capfd.readouterr().err == "surmin: the work failed\n"
    assert list(tmp_path.iterdir()) == []
