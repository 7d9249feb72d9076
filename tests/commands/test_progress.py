import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

import pytest

from surmin.commands import progress as progress_module
from surmin.commands.progress import RoundProgress, terminal_bar, terminal_line
from surmin.experiments.runs.metrics import Row


def show_some_rounds() -> None:
    with RoundProgress() as progress:
        progress.show("1/2 sm", 10, Row(0, 2.5, 0.1))
        for number in range(1, 4):
            progress.show("1/2 sm", 10, Row(number, 0.125, 0.1))
        progress.show("2/2 gd", 10, Row(1, None, None))


def test_a_terminal_sees_loss_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(progress_module, "REFRESH_SECONDS", 0.0)
    show_some_rounds()
    output, errors = capfd.readouterr()
    assert output == ""
    assert "1/2 sm" in errors and "3/10" in errors and "loss 1.250e-01" in errors and "rounds/s" in errors
    assert "2/2 gd" in errors and "loss not finite" in errors


def test_anything_else_sees_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    show_some_rounds()
    with terminal_line("timing"), terminal_bar() as bar:
        bar.update(bar.add_task("rounds"), refresh=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("shown", "text"), [(RoundProgress, "0/?"), (terminal_bar, ""), (partial(terminal_line, "timing"), "timing")]
)
def test_what_is_timed_is_not_disturbed_by_a_thread_that_draws(
    shown: Callable[[], AbstractContextManager[Any]], text: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FORCE_COLOR", "1")
    before = set(threading.enumerate())
    with shown():
        assert set(threading.enumerate()) <= before
        assert text in capfd.readouterr().err


def test_a_bar_is_drawn_when_it_is_told_but_not_for_every_round(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress_module, "REFRESH_SECONDS", 1e9)
    with terminal_bar() as bar:
        task = bar.add_task("rounds", total=9)
        bar.update(task, completed=1)
        assert "1/9" not in capfd.readouterr().err
        bar.update(task, completed=2, refresh=True)
        assert "2/9" in capfd.readouterr().err


def test_a_terminal_that_is_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written there fails from then on, also by somebody else while a bar is shown."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress_module, "REFRESH_SECONDS", 0.0)
    ours, theirs = os.openpty()
    terminal = os.fdopen(theirs, "w")
    monkeypatch.setattr(sys, "stderr", terminal)
    with terminal_line("timing"):
        os.close(ours)
        with pytest.raises(OSError):
            os.write(theirs, b"anything")
    with RoundProgress() as progress:
        progress.show("sm", 10, Row(1, 0.5, 0.1))
        print("said meanwhile", file=sys.stderr)
    with suppress(OSError):  # what could not be written
        terminal.close()
