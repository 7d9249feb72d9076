"""What the paper says of its experiments, and what we ask of ours, held against the results of the grid.

A loss is the median over seeds of the training loss a run ended with; the target loss where it got there, and infinite
where it diverged. The gap of an SM is log₁₀ of the best other loss over its own; where a run stopped at the target, it
is only known to be no less, or no more. How gaps grow is therefore also asked of the last round before a run stops.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from surmin.experiments.comparisons.paper_runs import Cell, PaperResult, by_cell
from surmin.experiments.configs.contenders import CONTENDERS
from surmin.experiments.runs.metrics import Row

SURROGATES = {"sm-paper": "Appendix A's SM", "sm": "our SM"}
OURS = {"sm": "our SM", "sm-trips": "our SM with the preset trips"}
OTHERS = [name for name, contender in CONTENDERS.items() if contender.family == "paper" and name not in SURROGATES]
EARLY = 50
LOSS = 1e-3


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim, whether it holds (None where runs ended too early to tell), and the figures that say so."""

    claim: str
    subject: str
    holds: bool | None
    figures: str


@dataclass(frozen=True)
class Gap:
    """What is known of a gap: a number between two, mostly the same."""

    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:+.2f}"
        if math.isinf(self.low) and math.isinf(self.high):
            return "both at the target"
        return f"at least {self.low:+.2f}" if math.isinf(self.high) else f"at most {self.high:+.2f}"


NOTHING = Gap(0.0, 0.0)
Finding = tuple[str, tuple[bool | None, str]]
"""A claim, whether it holds, and the figures."""


def judge(results: Sequence[PaperResult]) -> list[ClaimVerdict]:
    """All claims that these results say something about."""
    groups = by_cell(results)
    verdicts: list[ClaimVerdict] = []
    for name, subject in SURROGATES.items():
        claims = _gap_claims(_gaps(name, groups, final_loss))
        if rounds := _before_any_stops(name, groups):
            claims += _growth_claims(_gaps(name, groups, partial(_median_after, rounds)), f", after {rounds} rounds")
        verdicts += [ClaimVerdict(claim, subject, *verdict) for claim, verdict in claims]
    verdicts += _block_claims(groups)
    verdicts += _own_claims(groups)
    return verdicts


def final_loss(results: Sequence[PaperResult]) -> float:
    """The median loss that runs ended with."""
    return statistics.median(max(result.quality[1], _target(result)) for result in results)


def early_loss(result: PaperResult) -> float | None:
    """The loss after `EARLY` rounds, or at the end of a run that stopped earlier; None where it was given fewer."""
    ran_out = result.status == "finished" and result.rows[-1].round < EARLY
    return None if ran_out else _loss_after(result, EARLY)


def _loss_after(result: PaperResult, rounds: int) -> float:
    """The loss after so many rounds, or at the end of a run that has fewer."""
    loss = result.rows[min(rounds, len(result.rows) - 1)].loss
    return math.inf if loss is None else max(loss, _target(result))


def spent_until(rows: Sequence[Row], loss: float) -> Row | None:
    """The first row at or below a loss."""
    return next((row for row in rows if row.loss is not None and row.loss <= loss), None)


def _target(result: PaperResult) -> float:
    """Losses below it are not told apart."""
    return result.run.config.target_loss or 0.0


def _rivals(cell: Cell, groups: Mapping[Cell, Sequence[PaperResult]], names: Sequence[str]) -> Iterator[Cell]:
    """Cells of other methods at the same depth, and at the same N where they take it."""
    for other in groups:
        if other.layers == cell.layers and other.contender in names and other.inner_steps in (None, cell.inner_steps):
            yield other


def _gaps(
    name: str, groups: Mapping[Cell, Sequence[PaperResult]], loss: Callable[[Sequence[PaperResult]], float]
) -> dict[tuple[int, int], Gap]:
    """By depth and N; only where there is something to compare with."""
    gaps = {}
    for cell, own in groups.items():
        rivals = [loss(groups[other]) for other in _rivals(cell, groups, OTHERS)]
        if cell.contender == name and cell.inner_steps is not None and rivals:
            gaps[cell.layers, cell.inner_steps] = _gap(min(rivals), loss(own), _target(own[0]))
    return gaps


def _before_any_stops(name: str, groups: Mapping[Cell, Sequence[PaperResult]]) -> int:
    """The last round before a run of this SM or of its rivals is at its target; 0 where none gets there."""
    compared = [result for cell, own in groups.items() if cell.contender in (name, *OTHERS) for result in own]
    ends = [result.rows[-1].round for result in compared if result.status == "reached"]
    return min(ends, default=1) - 1


def _gap(other: float, own: float, target: float) -> Gap:
    if math.isinf(own):
        return Gap(-math.inf, -math.inf)
    ratio = math.inf if math.isinf(other) else math.log10(other / own)
    return Gap(-math.inf if other <= target else ratio, math.inf if own <= target else ratio)


def _gap_claims(gaps: Mapping[tuple[int, int], Gap]) -> list[Finding]:
    if not gaps:
        return []
    ahead = _all(_above(gap, NOTHING) for gap in gaps.values())
    return [("SM is ahead of the paper's other methods", (ahead, _written(gaps, "layers, N"))), *_growth_claims(gaps)]


def _growth_claims(gaps: Mapping[tuple[int, int], Gap], when: str = "") -> list[Finding]:
    depths, steps = (sorted({key[place] for key in gaps}) for place in (0, 1))
    figures = _written(gaps, "layers, N")
    claims: list[Finding] = []
    if len(steps) > 1:
        rising = [_rises([gaps[d, n] for n in steps if (d, n) in gaps]) for d in depths]
        claims.append((f"the gap grows with N, at every depth{when}", (_all(rising), figures)))
    if len(depths) > 1:
        rising = [_rises([gaps[d, n] for d in depths if (d, n) in gaps]) for n in steps]
        claims.append((f"the gap grows with depth, at every N{when}", (_all(rising), figures)))
    return claims


def _written(gaps: Mapping[tuple[int, int], Gap], names: str) -> str:
    values = ", ".join(f"({depth}, {steps}) {gap}" for (depth, steps), gap in sorted(gaps.items()))
    return f"gap in powers of ten by ({names}): {values}"


def _rises(gaps: Sequence[Gap]) -> bool | None:
    """Never falls, and ends higher than it began."""
    falls = (_above(before, after) for before, after in pairwise(gaps))
    return _all([_above(gaps[-1], gaps[0]), *(None if fall is None else not fall for fall in falls)])


def _above(one: Gap, other: Gap) -> bool | None:
    if one.low > other.high:
        return True
    return False if one.high <= other.low else None


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    """False where one is, else None where one is."""
    found = set(verdicts)
    return False if False in found else None if None in found else True


def _block_claims(groups: Mapping[Cell, Sequence[PaperResult]]) -> list[ClaimVerdict]:
    claims = {
        "cgblock": "CGBlock as the paper describes it is worse than GD + Armijo",
        "cgblock-damping": "CGBlock with regularization is worse than GD + Armijo",
        "cgblock-armijo": "CGBlock stopped at negative curvature, with a line search, is worse than GD + Armijo",
    }
    verdicts = []
    for name, claim in claims.items():
        pairs = [
            (cell, final_loss(own), final_loss(groups[other]))
            for cell, own in groups.items()
            if cell.contender == name
            for other in _rivals(cell, groups, ["gd-armijo"])
        ]
        if pairs:
            figures = ", ".join(f"({cell.layers}, {cell.inner_steps}) {a:.2g} : {b:.2g}" for cell, a, b in pairs)
            worse = sum(own > other for _, own, other in pairs)
            words = f"worse in {worse} of {len(pairs)}; losses by (layers, N): {figures}"
            verdicts.append(ClaimVerdict(claim, "CGBlock", worse == len(pairs), words))
    return verdicts


def _own_claims(groups: Mapping[Cell, Sequence[PaperResult]]) -> list[ClaimVerdict]:
    """What our SM is to reach at the greatest depth."""
    deepest = [cell for cell in groups if cell.layers == max(c.layers for c in groups)]
    own = [cell for cell in deepest if cell.contender in OURS]
    others = [cell for cell in deepest if cell.contender not in {*SURROGATES, *OURS}]
    return [verdict for cell in own for verdict in (_early(cell, others, groups), _messages(cell, others, groups))]


def _early(cell: Cell, others: Sequence[Cell], groups: Mapping[Cell, Sequence[PaperResult]]) -> ClaimVerdict:
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
    figures = f"{mine:.2g} with {rate:.0f} messages a round" + (
        f"; the best of those others is {best.label} with {rivals[best]:.2g}" if best else "; no other sends so few"
    )
    holds = math.isfinite(mine) and all(mine < loss for loss in rivals.values())
    both_stopped = best is not None and mine == rivals[best] == _target(groups[cell][0])
    return ClaimVerdict(claim, _subject(cell), None if both_stopped else holds, figures)


def _messages(cell: Cell, others: Sequence[Cell], groups: Mapping[Cell, Sequence[PaperResult]]) -> ClaimVerdict:
    def messages(result: PaperResult) -> float:
        row = spent_until(result.rows, LOSS)
        return math.inf if row is None else float(row.messages)

    mine = _median(groups[cell], messages)
    rivals = {other: _median(groups[other], messages) for other in others}
    best = min(rivals, key=rivals.__getitem__, default=None)
    least = math.inf if best is None else rivals[best]
    claim = f"at most a sixth of the messages of the best other method to a loss of {LOSS:g}"
    figures = f"{mine:.0f} messages" + (
        f"; {best.label} {least:.0f}" if best and math.isfinite(least) else "; no other gets there"
    )
    return ClaimVerdict(claim, _subject(cell), math.isfinite(mine) and mine <= least / 6, figures)


def _subject(cell: Cell) -> str:
    return f"{OURS[cell.contender]}, {cell.layers} layers, N = {cell.inner_steps}"


def _messages_per_round(result: PaperResult) -> float:
    last = result.rows[-1]
    return last.messages / max(1, last.round)


def _median_after(rounds: int, results: Sequence[PaperResult]) -> float:
    return statistics.median(_loss_after(result, rounds) for result in results)


def _median(results: Sequence[PaperResult], figure: Callable[[PaperResult], float]) -> float:
    return statistics.median(map(figure, results))
