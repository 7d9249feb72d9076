"""What a run's seconds are made of."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from surmin.experiments.runs import run as run_module
from surmin.experiments.runs.problem import Problem
from surmin.methods.first_order import FirstOrder
from tests.experiments.runs.cases import start, tiny_run


def test_evaluation_is_not_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def passing(seconds: float, function: Any) -> Any:
        def called(*arguments: Any) -> Any:
            nonlocal now
            now += seconds
            return function(*arguments)

        return called

    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=lambda: now, monotonic=time.monotonic))
    monkeypatch.setattr(FirstOrder, "step", passing(1.0, FirstOrder.step))
    monkeypatch.setattr(Problem, "evaluate", passing(100.0, Problem.evaluate))
    run = start(tiny_run(method="adam", rounds=3), tmp_path / "run")
    run.train()
    assert [row.seconds for row in run.rows] == [0.0, 1.0, 2.0, 3.0]
