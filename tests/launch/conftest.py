from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.cases import Launch, SupervisedRun, start


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start a run of a worker script; when the test ends, nothing of it is left."""
    runs: list[SupervisedRun] = []

    def launch_one(
        script: str, count: int = 2, timeout: float = 30, checkpoint: str = "round-000000", **environment: str
    ) -> SupervisedRun:
        runs.append(start(tmp_path, script, count, timeout, checkpoint, **environment))
        return runs[-1]

    yield launch_one
    for run in runs:
        run.end()
