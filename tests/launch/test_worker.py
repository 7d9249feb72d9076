import pytest

from surmin.launch.reports import Report
from surmin.launch.worker import Worker


@pytest.fixture(autouse=True)
def no_workers_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SURMIN_SUPERVISOR"):
        monkeypatch.delenv(variable, raising=False)


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_any_other_process_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Worker.from_environment() is None
    set_environment(monkeypatch, RANK="0")
    assert Worker.from_environment() is None


def test_torchrun_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, RANK="5", WORLD_SIZE="8", LOCAL_RANK="1")
    assert Worker.from_environment() == Worker(rank=5, count=8, local_rank=1)


@pytest.mark.parametrize(
    ("rank", "count", "message"),
    [("x", "2", "RANK='x' is not a number"), ("0", "-1", "WORLD_SIZE='-1' is not"), ("2", "2", "RANK=2 is not below")],
)
def test_an_environment_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, rank: str, count: str, message: str
) -> None:
    set_environment(monkeypatch, RANK=rank, WORLD_SIZE=count)
    with pytest.raises(ValueError, match=message):
        Worker.from_environment()


def test_the_worker_whose_output_nothing_reads_says_so() -> None:
    report = Report.of(BrokenPipeError())
    assert (report.kind, report.code, report.resumable) == ("error", 141, False)
