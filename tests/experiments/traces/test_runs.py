import pytest

from surmin.experiments.configs.timeline import TimelineConfig
from surmin.experiments.runs.team import ALONE
from surmin.experiments.traces import runs as runs_module
from surmin.experiments.traces.runs import trace_runs


def test_too_few_samples_are_said_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(runs_module, "build_problem")
    with pytest.raises(ValueError, match=r"^3 samples cannot be cut into 4 equal micro-batches$"):
        trace_runs(TimelineConfig(workers=1, train_samples=3, microbatches=4), ALONE)
