"""Several methods on the same problem: every run in a folder of its own, one table over all of them."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from surmin.data import Dataset
from surmin.experiments.config import CompareConfig
from surmin.experiments.folder import RunFolder, claim_folder, write_config
from surmin.experiments.grid import PlannedRun, plan_runs
from surmin.experiments.metrics import Row, read_rows
from surmin.experiments.problem import load_data
from surmin.experiments.results import Result, write_results
from surmin.experiments.round_folder import newest_round
from surmin.experiments.run import Run, status_of
from surmin.experiments.saved import SavedRun, check_unchanged, read_config
from surmin.experiments.team import ALONE

GROWS = frozenset({"methods", "seeds", "lr"})
"""Options of a comparison that may be others when it is continued: they add runs, or leave some out."""

OnRow = Callable[[PlannedRun, Row], None]


@dataclass(frozen=True)
class Comparison:
    """A comparison and its folder: `config.json`, `results.csv`, and the runs under `runs/`."""

    config: CompareConfig
    path: Path
    data: Dataset
    planned: Sequence[PlannedRun]

    @classmethod
    def start(cls, config: CompareConfig, path: Path) -> "Comparison":
        """Check everything, then make the folder.

        Raises:
            ValueError: for options that are not possible, or when the folder has something in it already.
        """
        comparison = cls._prepare(config, path)
        claim_folder(path)
        comparison._write_config()
        return comparison

    @classmethod
    def resume(cls, source: Path, config: CompareConfig, path: Path) -> "Comparison":
        """Continue a comparison: in its own folder, or in a copy of it.

        Raises:
            ValueError: when the options would make it another comparison, or `path` has something in it already.
        """
        check_unchanged(read_config(source, CompareConfig), config, GROWS)
        comparison = cls._prepare(config, path)
        if path != source:
            claim_folder(path)
            shutil.copytree(source, path, dirs_exist_ok=True)
        comparison._write_config()
        return comparison

    def run(self, on_row: OnRow = lambda planned, row: None) -> list[Result]:
        """Train all that is not finished yet; after Ctrl-C, what was begun. `results.csv` grows run by run.

        Args:
            on_row: called with every new row.
        """
        results: list[Result] = []
        for planned in self.planned:
            result = self._finished(planned) or self._train(planned, on_row)
            results.append(result)
            write_results(self.path / "results.csv", results)
            if result.status == "interrupted":
                break
        return results

    @classmethod
    def _prepare(cls, config: CompareConfig, path: Path) -> "Comparison":
        planned = plan_runs(config)
        data = load_data(config, ALONE)
        for first in {run.method: run for run in reversed(planned)}.values():
            Run(first.config, path, data=data)  # raises what is wrong before anything is written
        return cls(config, path, data, planned)

    def _write_config(self) -> None:
        write_config(self.path / "config.json", self.config, self.data.train_inputs.device)

    def _folder(self, planned: PlannedRun) -> RunFolder:
        return RunFolder(self.path / "runs" / planned.name)

    def _finished(self, planned: PlannedRun) -> Result | None:
        folder = self._folder(planned)
        rows = read_rows(folder.metrics) if folder.metrics.exists() else []
        status = status_of(rows, planned.config) if rows else "interrupted"
        return None if status == "interrupted" else Result(planned, rows, status)

    def _train(self, planned: PlannedRun, on_row: OnRow) -> Result:
        folder = self._folder(planned)
        run = Run(planned.config, folder.path, data=self.data)
        if newest_round(folder.checkpoint):
            run.resume(SavedRun.read(folder.path))
        else:
            shutil.rmtree(folder.path, ignore_errors=True)  # cut off before its first checkpoint
            run.start()
        status = run.train(lambda row: on_row(planned, row))
        return Result(planned, run.rows, status)
