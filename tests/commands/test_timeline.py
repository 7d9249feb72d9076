import json
from pathlib import Path

import pytest

from surmin.commands import tracing
from surmin.commands.timeline import timeline
from surmin.experiments.configs.timeline import TimelineConfig
from surmin.experiments.traces.chrome_trace import to_chrome_trace
from surmin.experiments.traces.timeline import Timeline
from tests.pipeline.spans import gradient_step, surrogate_round
from tests.plots.cases import picture_size

CONFIG = TimelineConfig(workers=1, microbatches=2)
RUNS = {"gpipe": gradient_step(), "sm": surrogate_round()}


def give(monkeypatch: pytest.MonkeyPatch, runs: dict[str, Timeline] | None) -> None:
    monkeypatch.setattr(tracing, "trace_runs", lambda config, team: runs)


def test_worker_0_writes_draws_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, RUNS)
    folder = tmp_path / "traced"
    assert timeline(CONFIG, folder) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["timeline.json", "timeline.png"]
    written = json.loads((folder / "timeline.json").read_text())
    assert written["traceEvents"] == to_chrome_trace(RUNS)["traceEvents"]
    assert picture_size(folder / "timeline.png")[0] > 1400
    described = written["otherData"]
    assert described["options"]["microbatches"] == 2
    assert described["runs"]["gpipe"] == {"utilisation": [0.7, 0.7], "bubble": pytest.approx(0.3), "local_overlap": 0.0}
    output = capfd.readouterr().out.splitlines()
    assert output[0] == (
        "5 gradient steps by GPipe: utilisation 70.0 %, bubble 30.0 %, "
        "(K - 1)/(M + K - 1) = 33.3 %, local updates shared 0.0 %"
    )
    assert output[1].startswith("2 rounds of sm: utilisation 69.4 %")


def test_titles_say_what_is_drawn() -> None:
    config = TimelineConfig(gradient_steps=1, rounds=1, preset="trips")
    assert tracing.title_of(config, "sm") == "1 round of sm, preset trips"
    assert tracing.title_of(config, "1f1b") == "1 gradient step by 1F1B"
    assert tracing.title_of(CONFIG, "posted") == "5 gradient steps by GPipe, receives posted ahead"


def test_other_workers_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, None)
    assert timeline(CONFIG, tmp_path / "traced") == 0
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, RUNS)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        timeline(CONFIG, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
