"""Progress bars, on the terminal only."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from surmin.experiments.runs.metrics import Row

REFRESH_SECONDS = 0.1


def terminal_bar(*columns: str | ProgressColumn) -> Progress:
    """A bar with a description, a count and what else is wanted; silent when standard error is no terminal."""
    console = Console(stderr=True)
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *columns)
    return Progress(*shown, console=console, transient=True, disable=not console.is_terminal)


class RoundProgress:
    """Shows how far the current run has come; silent when the standard error stream is no terminal.

    It is drawn between rounds, never from a thread of its own, which would disturb what is being timed.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            _RateColumn(),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, loss="–")
        self._run = ""
        self._drawn = 0.0

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
        """Show the newest row of a run; another name than before starts the bar anew."""
        loss = "not finite" if row.loss is None else f"{row.loss:.3e}"
        if run != self._run:
            self._run = run
            self._bar.reset(self._task, description=run, total=rounds)
        self._bar.update(self._task, completed=row.round, loss=loss)
        if time.monotonic() - self._drawn > REFRESH_SECONDS:
            self._bar.refresh()
            self._drawn = time.monotonic()


class _RateColumn(ProgressColumn):
    """Rounds per second, evaluation included."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g} rounds/s")
