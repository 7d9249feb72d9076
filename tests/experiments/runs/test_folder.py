import os
from datetime import datetime
from pathlib import Path

import pytest

from surmin.experiments.runs import folder as folder_module
from surmin.experiments.runs.folder import claim_folder, default_folder


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
