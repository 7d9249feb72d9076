"""One run: a network, a method, and the folder that records what happens."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from surmin.checkpoints.checkpoint import Checkpoint
from surmin.checkpoints.disk import sync_file
from surmin.checkpoints.saving import load_checkpoint
from surmin.data import Dataset
from surmin.errors import NonFiniteError
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.configs.saved import check_unchanged
from surmin.experiments.runs.batches import Batches
from surmin.experiments.runs.caveats import caveats
from surmin.experiments.runs.folder import RunFolder, claimed, write_config, written_by_one
from surmin.experiments.runs.metrics import Row, append_row, write_rows
from surmin.experiments.runs.problem import build_problem, load_data, method_options
from surmin.experiments.runs.processor import set_up_processor, warm_up
from surmin.experiments.runs.saved import SavedRun
from surmin.experiments.runs.status import Status, status_after
from surmin.experiments.runs.team import ALONE, Team
from surmin.launch.interrupts import deferred_interrupt
from surmin.methods.registry import build_method
from surmin.pipeline.comparison import complaints_of
from surmin.report import StepReport


class Run:
    """A run that is ready to train: everything is checked and built, and nothing is written yet.

    Args:
        config: the options; `stages` is filled in if left open.
        path: the run's folder, the same for all members of the team.
        team: whose run it is; every member makes the same calls.
        data: the data if already loaded.

    Raises:
        ValueError: if options are not possible, alone or with this data.
    """

    def __init__(
        self,
        config: RunConfig,
        path: Path,
        team: Team = ALONE,
        data: Dataset | None = None,
    ) -> None:
        config = replace(config, workers=team.count)
        config.check()
        set_up_processor(config.threads)
        self.team = team
        self.problem = build_problem(config, data or load_data(config, team), team)
        self.config = replace(config, stages=self.problem.stages)
        self.folder = RunFolder(path)
        self.rows: list[Row] = []
        self._told_broken = False
        self._batches = Batches(
            self.problem.data.train_inputs,
            self.problem.data.train_targets,
            config.batch_size,
            config.seed,
            self.problem.position,
        )
        if self._batches.size % config.microbatches:
            raise ValueError(
                f"{self._batches.size} samples cannot be cut into {config.microbatches} equal microbatches"
            )
        self._writers = team.first(self.problem.position.length)
        self._options = method_options(config.method, self.problem.data, config.given_options())
        self._method = build_method(config.method, self.problem.pipeline, seed=config.seed, **self._options)

    @property
    def status(self) -> Status:
        """How far the run has come."""
        return status_after(self.rows[-1], self.config)

    def start(self) -> None:
        """Make the folder and record the starting point.

        Raises:
            ValueError: if the folder is not empty, or another run is about to write there.
        """
        self.rows = [Row.start(self.problem.evaluate())]
        with self._claimed_folder():
            self._record()

    def resume(self, saved: SavedRun) -> None:
        """Resume a run from its checkpoint, in its own folder or in a copy, which must be empty.

        A run that was cut off before its first checkpoint starts again. If the options change what is computed from
        here on, worker 0 says so on stderr.

        Raises:
            ValueError: if checkpoint or options do not fit, or the run has gone on since it was read; no file has
                changed then.
        """
        check_unchanged(saved.config, self.config)
        loaded = load_checkpoint(saved.folder.checkpoint, self._method, missing_ok=True)
        with self.problem.pipeline.agreeing():  # each has read the folder itself, one perhaps later than another
            saved.check_round(loaded)
        if saved.rows and self._writes:
            self._tell_caveats(saved)
        self.rows = saved.rows if loaded else [Row.start(self.problem.evaluate())]
        is_own = self.folder.path == saved.folder.path
        with self._alone_in_folder() if is_own else self._claimed_folder():
            self._record()

    def train(self, on_row: Callable[[Row], None] = lambda row: None) -> Status:
        """Train until the target, the last round or divergence, as noticed at evaluations, or until Ctrl-C.

        An interrupt ends the round in progress; then comes an evaluation, wherever the next was due.

        Args:
            on_row: called with every new row.
        """
        warm_up(self.problem.data.train_inputs.device)
        saved = time.monotonic()
        with self._alone_in_folder(), deferred_interrupt() as is_interrupted:
            while self.status == "interrupted":
                is_due = self._writes and time.monotonic() - saved >= self.config.checkpoint_seconds
                interrupts, dues = self.team.sum(is_interrupted(), is_due)
                if interrupts:
                    break
                if dues:
                    self._save()
                    saved = time.monotonic()
                self.rows.append(self._next_row(is_interrupted))
                if self._writes:
                    append_row(self.folder.metrics, self.rows[-1])
                on_row(self.rows[-1])
            self._save()
        return self.status

    @property
    def _writes(self) -> bool:
        """Whether this member writes the files that all share."""
        return self.team.rank == 0

    def _alone_in_folder(self) -> AbstractContextManager[None]:
        return written_by_one(self.folder.path) if self._writes else nullcontext()

    def _claimed_folder(self) -> AbstractContextManager[None]:
        return claimed(self.folder.path) if self._writes else nullcontext()

    def _next_row(self, is_interrupted: Callable[[], bool]) -> Row:
        """Train until the next evaluation is due, or any member is interrupted, and evaluate."""
        row, every = self.rows[-1], self.config.evaluate_every
        due = min((row.round // every + 1) * every, self.config.rounds)
        while row.round < due:
            try:
                row = self._step(row)
            except NonFiniteError:
                return row.lost()
            if row.round < due and any(self.team.sum(is_interrupted())):
                break
        return row.evaluated(self.problem.evaluate())

    def _step(self, last: Row) -> Row:
        start = time.perf_counter()
        inputs, targets = self._batches.batch(last.round)
        report = self._method.step(inputs, targets)
        if inputs.is_cuda:
            torch.cuda.synchronize(inputs.device)
        seconds = self.team.largest(time.perf_counter() - start)
        return last.next(self._summed(report, inputs.shape), seconds)

    def _summed(self, report: StepReport, shape: torch.Size) -> StepReport:
        """The report with what all members did and sent."""
        if self.team.count == 1:
            return report
        unit = self.problem.pipeline.gradient_operations(shape)
        work, units, messages, sent = self.team.sum(
            report.gradient_equivalents * unit, unit, report.messages, report.bytes_sent
        )
        return replace(report, gradient_equivalents=work / units, messages=int(messages), bytes_sent=int(sent))

    def _record(self) -> None:
        """Rewrite the files from what is known now, on every member once the folder exists and nobody else uses it."""
        self.team.sum(0.0)
        if self._writes:
            write_config(self.folder.config, self.config, self.problem.data.train_inputs.device)
            write_rows(self.folder.metrics, self.rows)
        self._save()

    def _save(self) -> None:
        """Write the first replica's checkpoint; one that could not be continued does not replace the last good one."""
        if self._writes:
            sync_file(self.folder.metrics)  # a checkpoint whose rows are lost could not be continued
        if self.status == "diverged":
            return
        checkpoint = Checkpoint.of(self._method, self.rows[-1].round)
        broken = checkpoint.not_finite()
        said = self.team.gather("" if broken is None else f"{broken} is not finite")
        complaint = complaints_of(dict(enumerate(said)))
        if complaint is None and self.problem.position.replica == 0:
            checkpoint.save(self.folder.checkpoint, self._writers)
        if complaint is not None and self._writes and not self._told_broken:
            self._told_broken = True
            print(f"surmin: no checkpoints from round {checkpoint.round} on: {complaint}", file=sys.stderr)

    def _tell_caveats(self, saved: SavedRun) -> None:
        batch_size = self._batches.size * self.config.replicas
        for line in caveats(saved, self.config, self._method, self._options, batch_size):
            print(f"surmin: {line}", file=sys.stderr)
