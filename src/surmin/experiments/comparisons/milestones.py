"""What a run of the paper's grid has reached by some round, and what reaching a loss has cost."""

import math
import statistics
from collections.abc import Sequence

from surmin.experiments.comparisons.paper_runs import PaperResult
from surmin.experiments.runs.metrics import Row

EARLY = 50
"""Rounds."""
LOSS = 1e-3


def target(result: PaperResult) -> float:
    """Losses below it are not told apart."""
    return result.run.config.target_loss or 0.0


def final_loss(results: Sequence[PaperResult]) -> float:
    """The median of the losses that runs ended with."""
    return statistics.median(max(result.quality[1], target(result)) for result in results)


def early_loss(result: PaperResult) -> float | None:
    """The loss after `EARLY` rounds, or at the end of a run that stopped earlier; None if it was given fewer."""
    ran_out = result.status == "finished" and result.last.round < EARLY
    return None if ran_out else loss_after(EARLY, result)


def loss_after(rounds: int, result: PaperResult) -> float:
    """The loss after so many rounds, or at the end of a run with fewer."""
    loss = result.rows[min(rounds, len(result.rows) - 1)].loss
    return math.inf if loss is None else max(loss, target(result))


def spent_until(rows: Sequence[Row]) -> Row | None:
    """The first row at or below `LOSS`."""
    return next((row for row in rows if row.loss is not None and row.loss <= LOSS), None)


def is_out_of_reach(results: Sequence[PaperResult]) -> bool:
    """Whether these runs stop before `LOSS`, at a higher target: what they would have spent until then is unknown."""
    return target(results[0]) > LOSS


def write_loss(loss: float, results: Sequence[PaperResult]) -> str:
    """A loss of these runs in two digits; or that they are at their target, or how those without one ended."""
    if math.isinf(loss):
        return " or ".join(sorted({result.status for result in results if result.last.loss is None}))
    least = target(results[0])
    return f"≤ {least:g}" if loss <= least else f"{loss:.2g}"
