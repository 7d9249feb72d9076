"""How far a run has come."""

from typing import Literal

from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs.metrics import Row

Status = Literal["reached", "finished", "diverged", "interrupted"]


def status_after(last: Row, config: RunConfig) -> Status:
    """What the last row of a run says about it; a run that was cut off in any way is interrupted."""
    if last.loss is None:
        return "diverged"
    if config.target_loss is not None and last.loss <= config.target_loss:
        return "reached"
    return "finished" if last.round >= config.rounds else "interrupted"
