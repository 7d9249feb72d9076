"""What `surmin train` does in each process that trains."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from surmin.commands.joining import joined_team
from surmin.commands.progress import RoundProgress
from surmin.exit_codes import DIVERGED, INTERRUPTED, SUCCESS
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs.metrics import Row, figures_of
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.saved import SavedRun
from surmin.experiments.runs.status import Status
from surmin.plots.tables import percent, short

EXIT_CODES: dict[Status, int] = {"interrupted": INTERRUPTED, "diverged": DIVERGED}


def train_here(config: RunConfig, path: Path, resume: Path | None) -> int:
    """Start or continue a run, alone or as a worker; worker 0 draws it and says how it ended."""
    with joined_team(config, path, resume) as (config, path, team):
        chosen = team.gather(str(resume or ""))[0]
        saved = SavedRun.read(Path(chosen)) if chosen else None
        run = Run(config, path, team)
        if saved:
            run.resume(saved)
        else:
            run.start()
        status = _train(run)
    if team.rank == 0:
        _show(run, path, status)
    return EXIT_CODES.get(status, SUCCESS)


def _show(run: Run, path: Path, status: Status) -> None:
    from surmin.plots.run import draw_run  # here: it imports matplotlib, which the other workers do not need

    draw_run(path / "curves.png", run.config, run.rows)
    print(describe_end(status, run.rows))
    print(f"curves: {path / 'curves.png'}")


def _train(run: Run) -> Status:
    with RoundProgress() if run.team.rank == 0 else nullcontext() as progress:

        def show(row: Row) -> None:
            if progress is not None:
                progress.show(run.config.method, run.config.rounds, row)

        show(run.rows[-1])
        return run.train(show)


def describe_end(status: Status, rows: Sequence[Row]) -> str:
    """How a run with these rows ended, in one line."""
    row = rows[-1]
    rounds = f"{row.round} round{'' if row.round == 1 else 's'}, {row.seconds:.2f} s of training"
    if row.loss is None:
        return f"{status} after {rounds}: the loss or its gradient is not finite any more"
    has_labels = "test_accuracy" in figures_of(rows)
    tested = f"accuracy {percent(row.test_accuracy)}" if has_labels else f"loss {short(row.test_loss)}"
    return f"{status} after {rounds}: loss {short(row.loss)}, test {tested}"
