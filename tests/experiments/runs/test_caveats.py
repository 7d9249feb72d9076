"""What a run that is resumed with other replicas or stages, or elsewhere, is told, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from surmin.experiments.runs.caveats import caveats
from surmin.experiments.runs.folder import RunFolder
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.saved import SavedRun
from tests.device import here
from tests.experiments.runs.cases import resume, start, tiny_run


def said(tmp_path: Path, changes: dict[str, Any], device_type: str | None = None, **options: Any) -> list[str]:
    """By a run with these options, on such a device, that is continued with others, on this one."""
    before = tiny_run(**options)
    now = replace(before, **changes)
    run = Run(replace(now, workers=1, replicas=1), tmp_path / "unused")
    saved = SavedRun(RunFolder(tmp_path / "unused"), before, [], device_type)
    return list(caveats(saved, now, run._method, run._options, 60))


@pytest.mark.parametrize(
    ("options", "draws", "starts_at_random"),
    [
        ({"method": "sm"}, True, False),
        ({"method": "sm", "curvature_fraction": 1.0}, False, False),
        ({"method": "sm", "curvature_fraction": 1.0, "rank": 2}, True, False),
        ({"method": "sm", "curvature": "scalar"}, False, True),
        ({"method": "sm", "preset": "trips"}, False, False),  # with less than 400 samples
        ({"method": "sm", "preset": "trips", "inner_fraction": 0.5}, True, False),
        ({"method": "sm-paper"}, False, True),
        ({"method": "kfac"}, False, False),
        ({"method": "kfac", "rank": 2}, True, False),
        ({"method": "cgblock-ggn"}, True, False),
        ({"method": "adam"}, False, False),
    ],
)
def test_replicas_and_devices_that_draw(
    tmp_path: Path, options: dict[str, Any], draws: bool, starts_at_random: bool
) -> None:
    """Replicas share the vector from which eigenvalues are looked for; another device draws another."""
    lines = said(tmp_path, {"replicas": 2, "workers": 2}, **options)
    assert [line.split(":")[0] for line in lines] == ["resumed with 2 replicas, not 1"] * draws
    assert said(tmp_path, {"microbatches": 2}, **options) == []
    for device_type, differs in ((None, False), (here().type, False), ("tpu", True)):
        lines = said(tmp_path, {}, device_type, **options)
        begins = [f"resumed on {here().type}, not tpu"] * (differs and (draws or starts_at_random))
        assert [line.split(":")[0] for line in lines] == begins


@pytest.mark.parametrize(("method", "alone_then_two"), [("dladmm", True), ("ddg", False), ("dni", False)])
def test_replicas_that_remember_samples(tmp_path: Path, method: str, alone_then_two: bool) -> None:
    one, two = {"replicas": 1, "workers": 1}, {"replicas": 2, "workers": 2}
    line = f"{method} remembers samples, and a checkpoint has those of one replica alone"
    for before, now, expected in ((one, two, alone_then_two), (two, one, True), (two, two, True), (one, one, False)):
        lines = said(tmp_path, now, method=method, **before)
        assert [own.rpartition(", so that")[0] for own in lines] == [line] * expected


def test_stages_that_are_blocks(tmp_path: Path) -> None:
    assert said(tmp_path, {"stages": 3}) == []
    (line,) = said(tmp_path, {"stages": 3}, blocks="stage")
    assert line.startswith("resumed with 3 stages, not 2: every stage is a block")


def test_a_resumed_run_says_it_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tiny_run(preset="trips", rounds=1), tmp_path / "part").train()
    resume(tmp_path / "part", tmp_path / "same")
    assert capsys.readouterr().err == ""
    resume(tmp_path / "part", tmp_path / "other", stages=3)
    assert capsys.readouterr().err == (
        "surmin: resumed with 3 stages, not 2: every stage is a block, so that the rounds to come are not those of the "
        "uninterrupted run\n"
    )


def test_a_folder_says_what_kind_of_device_it_ran_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tiny_run(rounds=1), tmp_path / "part").train()
    path = tmp_path / "part" / "config.json"
    document = json.loads(path.read_text())
    assert document["environment"].pop("device_type") == here().type
    path.write_text(json.dumps(document))
    resume(tmp_path / "part", tmp_path / "older")
    assert capsys.readouterr().err == ""
    path.write_text(json.dumps({**document, "environment": {"device_type": "tpu"}}))
    resume(tmp_path / "part", tmp_path / "other")
    assert capsys.readouterr().err.startswith(f"surmin: resumed on {here().type}, not tpu: random numbers differ")


@pytest.mark.parametrize(("before", "now"), [(3, 2), (2, 3), (3, 1)])
@pytest.mark.parametrize("method", ["dgl", "interlocking", "dni"])
def test_auxiliary_networks_of_other_stages_are_refused(tmp_path: Path, method: str, before: int, now: int) -> None:
    start(tiny_run(method=method, stages=before, rounds=2), tmp_path / "part").train()
    with pytest.raises(ValueError, match=r"part/checkpoint: the state (is of other stages|has nothing for the stage)"):
        resume(tmp_path / "part", tmp_path / "other", stages=now)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("method", ["dgl", "interlocking", "dni"])
def test_before_the_first_round_there_are_no_auxiliary_networks(tmp_path: Path, method: str) -> None:
    start(tiny_run(method=method, stages=3, rounds=0), tmp_path / "part").train()
    whole = start(tiny_run(method=method, stages=2), tmp_path / "whole")
    whole.train()
    continued = resume(tmp_path / "part", stages=2, rounds=4)
    continued.train()
    assert [row.loss for row in continued.rows] == [row.loss for row in whole.rows]
