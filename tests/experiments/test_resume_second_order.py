"""Runs of second-order methods that stop and go on leave the rows of those that do not, mini-batches included."""

from pathlib import Path

import pytest

from tests.experiments.cases import resume, rows_of, start, tiny_run


@pytest.mark.parametrize("method", ["cgblock", "cgblock-ggn", "kfac", "newton"])
def test_resumed_is_uninterrupted(method: str, tmp_path: Path) -> None:
    start(tiny_run(method=method, batch_size=20), tmp_path / "whole").train()
    start(tiny_run(method=method, batch_size=20, rounds=2), tmp_path / "part").train()
    resume(tmp_path / "part", rounds=4).train()
    assert rows_of(tmp_path / "part") == rows_of(tmp_path / "whole")
