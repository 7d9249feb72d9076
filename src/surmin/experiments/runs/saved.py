"""A run as found in its folder: what is needed to continue it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surmin.checkpoints.checkpoint import Checkpoint
from surmin.checkpoints.round_folder import newest_round
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.configs.saved import read_config
from surmin.experiments.files import read_json
from surmin.experiments.runs.folder import FolderInUseError, RunFolder
from surmin.experiments.runs.metrics import Row, read_rows


@dataclass(frozen=True)
class SavedRun:
    """A run as far as it can be continued.

    Attributes:
        folder: its own.
        config: its options.
        rows: up to the round of its checkpoint; none if it was cut off before its first.
        device_type: what it ran on, cpu or cuda; None if the folder does not say.
    """

    folder: RunFolder
    config: RunConfig
    rows: list[Row]
    device_type: str | None

    @classmethod
    def read(cls, path: Path) -> "SavedRun":
        """Read a run folder; rows after the checkpoint will be computed again and are left out.

        Raises:
            ValueError: if a file is missing or damaged, or the run has diverged.
        """
        folder = RunFolder(path)
        config = read_config(path, RunConfig)
        device_type = read_json(folder.config, _device_type)
        if newest_round(folder.checkpoint) is None and not _has_begun(folder):
            return cls(folder, config, [], device_type)
        rows = read_rows(folder.metrics)
        last = Checkpoint.load(folder.checkpoint, names=()).round
        known = [row for row in rows if row.round <= last]
        if not known or known[-1].round < last:
            raise ValueError(f"{folder.metrics} has no row of round {last}, where the checkpoint is")
        if rows[-1].loss is None:
            raise ValueError(f"{path}: the run diverged in round {rows[-1].round}, there is nothing to continue")
        return cls(folder, config, known, device_type)

    def check_round(self, loaded: int) -> None:
        """Raise FolderInUseError unless the rows end in the loaded round: another process may have gone on."""
        if loaded != (self.rows[-1].round if self.rows else 0):
            raise FolderInUseError(
                f"{self.folder.path}: the run went on meanwhile: wait for its end, then resume again"
            )


def _has_begun(folder: RunFolder) -> bool:
    """Whether there are rows beyond the starting point; they are only written after the first checkpoint."""
    return folder.metrics.exists() and len(read_rows(folder.metrics)) > 1


def _device_type(document: Any) -> str | None:
    environment = document.get("environment")
    return environment.get("device_type") if isinstance(environment, dict) else None
