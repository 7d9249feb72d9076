"""Progress bars, on the terminal only. What they show may be timed, so none is drawn from its own thread."""

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from surmin.experiments.runs.metrics import Row

REFRESH_SECONDS = 0.1


def terminal_bar(*columns: str | ProgressColumn) -> Progress:
    """A bar with a description, a count and further columns; silent if standard error is not a terminal."""
    console = _console()
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *columns)
    return _Bar(*shown, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)


def terminal_line(text: str) -> Live:
    """A line shown meanwhile; silent if standard error is not a terminal."""
    return Live(text, console=_console(), auto_refresh=False, transient=True)


class _WhileItLasts:
    """Standard error for as long as it can be written to: nothing that is shown there is worth the work's end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write if it can be."""
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush if it can be."""
        with suppress(OSError):
            self._stream.flush()


def _console() -> Console:
    file = _WhileItLasts(sys.stderr) if sys.stderr else None
    return Console(file=cast(TextIO | None, file), stderr=True)


class _Bar(Progress):
    """Drawn when updated, unless that was moments ago."""

    _drawn = 0.0

    def update(self, task_id: TaskID, *, refresh: bool = False, **values: Any) -> None:
        """Update it, and have it drawn, at once if need be."""
        now = time.monotonic()
        refresh = refresh or now - self._drawn >= REFRESH_SECONDS
        if refresh:
            self._drawn = now
        super().update(task_id, refresh=refresh, **values)


class RoundProgress:
    """Shows how far the current run has got, between rounds."""

    def __init__(self) -> None:
        self._bar = terminal_bar("loss {task.fields[loss]}", _RateColumn(), TimeRemainingColumn())
        self._task = self._bar.add_task("", total=None, loss="–")
        self._run = ""

    def __enter__(self) -> "RoundProgress":
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the line."""
        self._bar.stop()

    def show(self, run: str, rounds: int, row: Row) -> None:
        """Show the newest row of a run; a new name restarts the bar."""
        loss = "not finite" if row.loss is None else f"{row.loss:.3e}"
        if run != self._run:
            self._run = run
            self._bar.reset(self._task, description=run, total=rounds)
        self._bar.update(self._task, completed=row.round, loss=loss)


class _RateColumn(ProgressColumn):
    """Rounds per second, evaluation included."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g} rounds/s")
