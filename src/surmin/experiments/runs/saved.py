"""A run as its folder tells it: what is needed to continue it."""

from dataclasses import dataclass
from pathlib import Path

from surmin.checkpoints.checkpoint import Checkpoint
from surmin.checkpoints.round_folder import newest_round
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.configs.saved import check_unchanged, read_config
from surmin.experiments.runs.folder import RunFolder
from surmin.experiments.runs.metrics import Row, read_rows


@dataclass(frozen=True)
class SavedRun:
    """A run's options and its rows up to the round of its checkpoint; no rows when it was cut off before its first."""

    folder: RunFolder
    config: RunConfig
    rows: list[Row]

    @classmethod
    def read(cls, path: Path) -> "SavedRun":
        """Read a run folder; rows after the checkpoint will be computed again and are left out.

        Raises:
            ValueError: when a file is missing or damaged, or the run has diverged.
        """
        folder = RunFolder(path)
        config = read_config(path, RunConfig)
        if newest_round(folder.checkpoint) is None and not _has_begun(folder):
            return cls(folder, config, [])
        rows = read_rows(folder.metrics)
        last = Checkpoint.load(folder.checkpoint, names=()).round
        if last >= len(rows):
            raise ValueError(f"{folder.metrics} ends before round {last}, where the checkpoint is")
        if rows[-1].loss is None:
            raise ValueError(f"{path}: the run diverged in round {rows[-1].round}, there is nothing to continue")
        return cls(folder, config, rows[: last + 1])

    def check_continues(self, config: RunConfig) -> None:
        """Raise ValueError when these options would make it another run."""
        check_unchanged(self.config, config)


def _has_begun(folder: RunFolder) -> bool:
    """Whether there are rows beyond the starting point, after whose first checkpoint they are written."""
    return folder.metrics.exists() and len(read_rows(folder.metrics)) > 1
