"""`surmin train`."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from surmin.commands.progress import RoundProgress
from surmin.exit_codes import INTERRUPTED, SUCCESS
from surmin.experiments.config import RunConfig
from surmin.experiments.folder import check_unclaimed
from surmin.experiments.metrics import Row
from surmin.experiments.run import Run, Status
from surmin.experiments.saved import SavedRun
from surmin.experiments.team import Team, team_of
from surmin.launch.supervisor import supervise
from surmin.launch.worker import this_worker
from surmin.plots.run import draw_run
from surmin.plots.tables import percent, short


def train(config: RunConfig, out: Path | None, resume: Path | None) -> int:
    """Start or continue a run, draw it, and say how it ended; on workers, if that is what this process is to do."""
    worker = this_worker()
    if worker is None and config.workers > 1:
        return _launch(config, out, resume)
    with team_of(worker, config.timeout, config.device) as team:
        path = Path(team.gather(str(out or resume or default_folder(config.method, config.data)))[0])
        saved = None if resume is None else SavedRun.read(resume)
        run = Run(_for_team(config, team), path, team)
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


def _launch(config: RunConfig, out: Path | None, resume: Path | None) -> int:
    """Check what can be checked beforehand, and run the same command on workers of this machine."""
    config.check()
    path = out or resume or default_folder(config.method, config.data)
    if path != resume:
        check_unclaimed(path)
    words = [*config.to_words(), "--out", str(path), *(["--resume", str(resume)] if resume else [])]
    command = [sys.executable, "-m", "surmin", config.command, *words]
    return supervise(config.workers, command, timeout=config.timeout, folder=path)


def _for_team(config: RunConfig, team: Team) -> RunConfig:
    """The options with the number of workers there are, which torchrun alone may know."""
    if config.workers not in (1, team.count):
        raise ValueError(
            f"--workers {config.workers}, but {team.count} were started: leave --workers out under torchrun"
        )
    return replace(config, workers=team.count)


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
