"""`surmin paper`."""

import shutil
import tempfile
from pathlib import Path

from rich.progress import TimeRemainingColumn

from surmin.commands.progress import terminal_bar, terminal_line
from surmin.commands.tables import print_table
from surmin.exit_codes import INTERRUPTED, SUCCESS, UNEXPECTED
from surmin.experiments.comparisons.claims import HOW_CLAIMS_ARE_JUDGED, judge
from surmin.experiments.comparisons.paper import Known, check_grid, estimate, finished, run_paper, runs_left
from surmin.experiments.comparisons.paper_results import write_milestones, write_paper_results
from surmin.experiments.comparisons.paper_runs import PaperResult, cells, run_count
from surmin.experiments.configs.paper import PaperConfig
from surmin.experiments.configs.saved import check_unchanged, check_version, read_config
from surmin.experiments.runs.folder import check_device, check_unclaimed, claim_folder, default_folder, write_config
from surmin.experiments.runs.processor import set_up_processor
from surmin.experiments.runs.team import choose_device
from surmin.plots.paper import draw_paper
from surmin.plots.paper_tables import verdict_table

GROWS = frozenset({"methods", "seeds", "depths", "inner_steps", "rounds", "target_loss", "device", "data_dir"})
"""Options that may be others when a grid is continued; results that are there stay what they are.

Not the jobs, and not the device that is used: one table has times of one machine, shared by as many runs."""


def paper(config: PaperConfig, out: Path | None, resume: Path | None) -> int:
    """Tune and run the grid; say beforehand how long it may take, and at the end which claims hold."""
    config.check()
    path = out or resume or default_folder("paper", config.data)
    _check(config, path, resume)
    known = finished(config, resume or path)
    _announce(config, known)
    if path != resume:
        claim_folder(path)
        if resume is not None:
            shutil.copytree(resume, path, dirs_exist_ok=True)
    write_config(path / "config.json", config, choose_device(config.device, 0))
    try:
        results = _run(config, path, known)
    except KeyboardInterrupt:
        print(f"interrupted; continue with --resume {path}")
        return INTERRUPTED
    if any(result.status == "interrupted" for result in results):
        print(f"interrupted after {len(results)} of {run_count(config)} runs; continue with --resume {path}")
        return INTERRUPTED
    write_paper_results(path / "results.csv", results)
    write_milestones(path / "milestones.csv", results)
    with terminal_line("drawing pictures and pages"):
        draw_paper(path, config, results)
    print_table(verdict_table(judge(results)), HOW_CLAIMS_ARE_JUDGED)
    failed = [result for result in results if result.status == "failed"]
    for result in failed:
        print(f"failed: {result.run.name}, try it again with --resume {path}: {result.failure}")
    print(f"table: {path / 'results.csv'}")
    print(f"page:  {path / 'report.html'}")
    return UNEXPECTED if failed else SUCCESS


def _check(config: PaperConfig, path: Path, resume: Path | None) -> None:
    """Raise ValueError for what is not possible, before anything is written."""
    if resume is not None:
        check_version(resume)
        check_unchanged(read_config(resume, PaperConfig), config, GROWS)
        check_device(resume, choose_device(config.device))
    if path != resume:
        check_unclaimed(path)
    set_up_processor(1)
    check_grid(config)


def _announce(config: PaperConfig, known: Known) -> None:
    """Time a few rounds of everything that is left, and say how long that will take at most."""
    left = sum(len(runs_left(config, cell, known)) for cell in cells(config))
    if not left:
        print(f"all {run_count(config)} runs are there")
        return
    with tempfile.TemporaryDirectory() as scratch, terminal_line("timing three rounds of every method"):
        seconds = estimate(config, known, Path(scratch))
    slowest = max(seconds, key=seconds.__getitem__)
    most = _minutes(sum(seconds.values()) / config.jobs)
    print(
        f"{left} of {run_count(config)} runs left, {config.jobs} at a time: at most {most}, "
        f"less where runs reach {config.target_loss:g} or diverge; "
        f"the slowest is {slowest.label} at {slowest.layers} layers with {_minutes(seconds[slowest])}"
    )


def _run(config: PaperConfig, path: Path, known: Known) -> list[PaperResult]:
    found = dict(known)
    with terminal_bar(TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=run_count(config))

        def show(result: PaperResult) -> None:
            found[result.run.name] = result
            write_paper_results(path / "results.csv", list(found.values()))
            progress.update(task, advance=1, description=result.run.name, refresh=True)

        return run_paper(config, path, known, show)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
