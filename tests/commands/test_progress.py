import pytest

from surmin.commands.progress import RoundProgress
from surmin.experiments.runs.metrics import Row


def show_some_rounds() -> None:
    with RoundProgress() as progress:
        progress.show("1/2 sm", 10, Row(0, 2.5, 0.1))
        for number in range(1, 4):
            progress.show("1/2 sm", 10, Row(number, 0.125, 0.1))
            progress._drawn = 0.0
        progress.show("2/2 gd", 10, Row(1, None, None))


def test_a_terminal_sees_loss_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    show_some_rounds()
    output, errors = capfd.readouterr()
    assert output == ""
    assert "1/2 sm" in errors and "3/10" in errors and "loss 1.250e-01" in errors and "rounds/s" in errors
    assert "2/2 gd" in errors and "loss not finite" in errors


def test_anything_else_sees_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    show_some_rounds()
    assert capfd.readouterr() == ("", "")
