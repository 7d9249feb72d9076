"""Several methods on the same problem: every run in its own folder, one table over all of them."""

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from surmin.data import Dataset
from surmin.experiments.comparisons.completing import complete, finished_runs
from surmin.experiments.comparisons.grid import PlannedRun, plan_runs
from surmin.experiments.comparisons.results import CompareResult, write_results
from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.configs.saved import MAY_CHANGE, check_unchanged, check_version, read_config
from surmin.experiments.runs.folder import check_device, claim_folder, write_config
from surmin.experiments.runs.metrics import Row
from surmin.experiments.runs.problem import load_data
from surmin.experiments.runs.run import Run
from surmin.experiments.runs.team import ALONE, choose_device
from surmin.methods.registry import METHODS

CHANGE_THE_TABLE = frozenset({"stages", "microbatches", "threads", "evaluate_every"})
"""Options that may change when a run is continued, but not a comparison: its table counts messages of one cut, times
with one number of threads, and rounds to one distance between evaluations."""
GROWS = frozenset({"methods", "seeds", "lr"})
"""Options that may change when a comparison is continued: they add runs, or leave some out."""

OnRow = Callable[[PlannedRun, Row], None]


@dataclass(frozen=True)
class Comparison:
    """A comparison and its folder: `config.json`, `results.csv`, and the runs under `runs/`.

    Attributes:
        config: the options.
        path: the folder.
        data: what all runs train on.
        planned: the runs, in order.
        left_out: those of `--methods all` that cannot run on this network, and why.
    """

    config: CompareConfig
    path: Path
    data: Dataset
    planned: Sequence[PlannedRun]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def start(cls, config: CompareConfig, path: Path) -> "Comparison":
        """Check everything, then make the folder.

        Raises:
            ValueError: if options are not possible, or the folder is not empty.
        """
        config.check_effects()
        comparison = cls._prepare(config, path)
        claim_folder(path)
        comparison._write_config()
        return comparison

    @classmethod
    def resume(cls, source: Path, config: CompareConfig, path: Path) -> "Comparison":
        """Continue a comparison: in its own folder, or in a copy of it.

        Raises:
            ValueError: if the options would make it another comparison, or `path` is not empty.
        """
        check_version(source)
        check_unchanged(read_config(source, CompareConfig), config, MAY_CHANGE - CHANGE_THE_TABLE | GROWS)
        check_device(source, choose_device(config.device))
        comparison = cls._prepare(config, path)
        finished_runs(source, comparison.planned)
        if path != source:
            claim_folder(path)
            shutil.copytree(source, path, dirs_exist_ok=True)
        comparison._write_config()
        return comparison

    def run(self, on_row: OnRow = lambda planned, row: None) -> list[CompareResult]:
        """Train all that is not finished yet; after Ctrl-C, finish what was begun. `results.csv` grows run by run.

        Results come in the order of the plan, including what an earlier start has finished.

        If a run cannot go on, that one ends and the others do not; when the comparison is continued, it is tried again.

        Args:
            on_row: called with every new row.
        """
        known = finished_runs(self.path, self.planned)
        for planned in self.planned:
            result = complete(self.path, planned, self.data, partial(on_row, planned))
            known[planned.name] = result
            write_results(self.path / "results.csv", self._in_order(known))
            if result.status == "interrupted":
                break
        return self._in_order(known)

    def _in_order(self, known: Mapping[str, CompareResult]) -> list[CompareResult]:
        return [known[planned.name] for planned in self.planned if planned.name in known]

    @classmethod
    def _prepare(cls, config: CompareConfig, path: Path) -> "Comparison":
        planned = plan_runs(config)
        data = load_data(config, ALONE)
        left_out: dict[str, str] = {}
        for method, runs in _by_method(planned).items():
            try:
                _check_runs(runs, path, data)
            except ValueError as error:
                left_out[method] = str(error)
        able = list(dict.fromkeys(run.method for run in planned if run.method not in left_out))
        if left_out and not (able and config.takes_all):
            others = [] if able else _others_that_can(config, path, data, left_out)
            raise ValueError(_refusal(left_out, sorted(able), sorted(others)))
        return cls(config, path, data, [run for run in planned if run.method in able], left_out)

    def _write_config(self) -> None:
        write_config(self.path / "config.json", self.config, self.data.train_inputs.device)


def _by_method(planned: Sequence[PlannedRun]) -> dict[str, list[PlannedRun]]:
    groups: dict[str, list[PlannedRun]] = {}
    for run in planned:
        groups.setdefault(run.method, []).append(run)
    return groups


def _check_runs(runs: Sequence[PlannedRun], path: Path, data: Dataset) -> None:
    """Check the options of one method at each of its learning rates, and build its first run; nothing is written.

    Raises:
        ValueError: saying what is wrong.
    """
    for config in {run.lr: run.config for run in runs}.values():
        config.check()
    Run(runs[0].config, path, data=data)


def _others_that_can(config: CompareConfig, path: Path, data: Dataset, named: Collection[str]) -> list[str]:
    """Methods that the same options would run if these were named instead."""
    able = []
    for method in METHODS:
        if method in named:
            continue
        try:
            _check_runs(plan_runs(replace(config, methods=method, seeds=1)), path, data)
        except (ValueError, RuntimeError):  # it was not asked for: why it cannot run does not matter
            continue
        able.append(method)
    return able


def _refusal(left_out: Mapping[str, str], able: Sequence[str], others: Sequence[str]) -> str:
    """What is wrong, and which methods can run instead: of those named, else of all."""
    if not (able or others):
        return next(iter(left_out.values()))
    reasons = "; ".join(f"{method} cannot run here: {reason}" for method, reason in left_out.items())
    offer = f"Of the methods named, {', '.join(able)} can" if able else f"Others can: {', '.join(others)}"
    return f"{reasons}. {offer}"
