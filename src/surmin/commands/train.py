"""`surmin train`."""

from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

from surmin.commands.launching import joined_team, launch
from surmin.commands.progress import RoundProgress
from surmin.exit_codes import INTERRUPTED, SUCCESS
from surmin.experiments.config import RunConfig
from surmin.experiments.metrics import Row
from surmin.experiments.run import Run, Status
from surmin.experiments.saved import SavedRun
from surmin.plots.run import draw_run
from surmin.plots.tables import percent, short


def train(config: RunConfig, out: Path | None, resume: Path | None) -> int:
    """Start or continue a run, draw it, and say how it ended; on workers, if that is what this process is to do."""
    path = out or resume or default_folder(config.method, config.data)
    code = launch(config, path, resume)
    if code is not None:
        return code
    with joined_team(config, path, resume) as (config, path, team):
        saved = None if resume is None else SavedRun.read(resume)
        run = Run(config, path, team)
        if saved:
            run.resume(saved)
        else:
            run.start()
        status = _train(run)
    if team.rank == 0:
        draw_run(path / "curves.png", run.config, run.rows)
        print(describe_end(status, run.rows[-1]))
        print(f"curves: {path / 'curves.png'}")
    return INTERRUPTED if status == "interrupted" else SUCCESS


def _train(run: Run) -> Status:
    with RoundProgress() if run.team.rank == 0 else nullcontext() as progress:

        def show(row: Row) -> None:
            if progress is not None:
                progress.show(run.config.method, run.config.rounds, row)

        show(run.rows[-1])
        return run.train(show)


def describe_end(status: Status, row: Row) -> str:
    """How a run ended, in one line."""
    rounds = f"{row.round} round{'' if row.round == 1 else 's'}, {row.seconds:.2f} s of training"
    if row.loss is None:
        return f"{status} after {rounds}: the loss or its gradient is not finite any more"
    return f"{status} after {rounds}: loss {short(row.loss)}, test accuracy {percent(row.test_accuracy)}"


def default_folder(command: str, data: str) -> Path:
    """A new folder under runs/, named by what is run and when."""
    return Path("runs") / f"{command}-{Path(data).stem}-{datetime.now():%Y%m%d-%H%M%S}"
