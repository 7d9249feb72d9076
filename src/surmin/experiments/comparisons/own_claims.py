"""What our SM should reach at the greatest depth, checked against the results of the grid."""

import math
import statistics
from collections.abc import Callable, Sequence

from surmin.experiments.comparisons.claim import ClaimVerdict, Groups, write_layers
from surmin.experiments.comparisons.milestones import (
    EARLY,
    LOSS,
    early_loss,
    final_loss,
    is_out_of_reach,
    spent_until,
    target,
    write_loss,
)
from surmin.experiments.comparisons.paper_runs import Cell, PaperResult

OURS = {"sm": "our SM", "sm-trips": "our SM with the preset trips"}


def judge_own(groups: Groups) -> list[ClaimVerdict]:
    """What our SM should reach at the greatest depth."""
    deepest = [cell for cell in groups if cell.layers == max(c.layers for c in groups)]
    own = [cell for cell in deepest if cell.contender in OURS]
    others = [cell for cell in deepest if cell.contender not in {"sm-paper", *OURS}]
    return [verdict for cell in own for verdict in (_early(cell, others, groups), _messages(cell, others, groups))]


def _early(cell: Cell, others: Sequence[Cell], groups: Groups) -> ClaimVerdict:
    claim = f"loss after {EARLY} rounds below the last loss of every method that sends no more messages a round"
    losses = [loss for loss in map(early_loss, groups[cell]) if loss is not None]
    if len(losses) < len(groups[cell]):
        return ClaimVerdict(claim, _subject(cell), None, f"it was given fewer than {EARLY} rounds")
    mine = statistics.median(losses)
    rate = _median(groups[cell], _messages_per_round)
    rivals = {
        other: final_loss(groups[other]) for other in others if _median(groups[other], _messages_per_round) <= rate
    }
    best = min(rivals, key=rivals.__getitem__, default=None)
    figures = f"{write_loss(mine, groups[cell])}, {rate:.0f} messages a round; " + (
        f"the best of those others, {best.label}: {write_loss(rivals[best], groups[best])}"
        if best
        else "no other sends so few"
    )
    holds = math.isfinite(mine) and all(mine < loss for loss in rivals.values())
    both_stopped = best is not None and mine == rivals[best] == target(groups[cell][0])
    return ClaimVerdict(claim, _subject(cell), None if both_stopped else holds, figures)


def _messages(cell: Cell, others: Sequence[Cell], groups: Groups) -> ClaimVerdict:
    def messages(result: PaperResult) -> float:
        row = spent_until(result.rows)
        return math.inf if row is None else float(row.messages)

    mine = _median(groups[cell], messages)
    rivals = {other: _median(groups[other], messages) for other in others}
    best = min(rivals, key=rivals.__getitem__, default=None)
    least = math.inf if best is None else rivals[best]
    claim = f"at most a sixth of the messages of the best other method to a loss of {LOSS:g}"
    figures = (f"{mine:.0f} messages" if math.isfinite(mine) else "not reached") + (
        f"; {best.label} {least:.0f}" if best and math.isfinite(least) else "; no other gets there"
    )
    if is_out_of_reach(groups[cell]):
        return ClaimVerdict(claim, _subject(cell), None, f"runs stop at a loss of {target(groups[cell][0]):g}")
    nothing_to_compare = least == 0 or (math.isinf(mine) and math.isinf(least))
    return ClaimVerdict(claim, _subject(cell), None if nothing_to_compare else mine <= least / 6, figures)


def _subject(cell: Cell) -> str:
    return f"{OURS[cell.contender]}, {write_layers(cell.layers)}, N = {cell.inner_steps}"


def _messages_per_round(result: PaperResult) -> float:
    last = result.last
    return last.messages / max(1, last.round)


def _median(results: Sequence[PaperResult], figure: Callable[[PaperResult], float]) -> float:
    return statistics.median(map(figure, results))
