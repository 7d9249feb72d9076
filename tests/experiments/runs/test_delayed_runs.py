"""Runs of methods with gradients under way resume as if they had not stopped, and refuse other stages."""

from pathlib import Path
from typing import Any

import pytest

from tests.experiments.runs.cases import resume, rows_of, start, tiny_run


@pytest.mark.parametrize("method", ["ddg", "features-replay", "fdg"])
def test_resuming_with_gradients_under_way(method: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": method, "batch_size": 20, "stages": 3, "lr": 0.01}
    start(tiny_run(**options, rounds=9), tmp_path / "whole").train()
    start(tiny_run(**options, rounds=3), tmp_path / "part").train()
    with pytest.raises(ValueError, match="the state is of other stages"):
        resume(tmp_path / "part", tmp_path / "other", rounds=9, stages=2)
    resume(tmp_path / "part", rounds=5).train()
    resume(tmp_path / "part", rounds=5)
    resume(tmp_path / "part", rounds=9).train()
    assert rows_of(tmp_path / "part") == rows_of(tmp_path / "whole")
