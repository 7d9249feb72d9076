"""The paper's claims about its experiments, checked against the results of the grid, and then our own."""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from surmin.experiments.comparisons.claim import ClaimVerdict, Groups, write_layers
from surmin.experiments.comparisons.gaps import NOTHING, Gap, every, rises
from surmin.experiments.comparisons.milestones import final_loss, loss_after, target, write_loss
from surmin.experiments.comparisons.own_claims import judge_own
from surmin.experiments.comparisons.paper_runs import PaperResult, by_cell
from surmin.experiments.configs.contenders import CONTENDERS

SURROGATES = {"sm-paper": "Appendix A's SM", "sm": "our SM"}
OTHERS = [name for name, contender in CONTENDERS.items() if contender.family == "paper" and name not in SURROGATES]
SAFEGUARDS = {
    "cgblock": "CGBlock as the paper describes it is worse than GD + Armijo",
    "cgblock-damping": "CGBlock with regularization is worse than GD + Armijo",
    "cgblock-armijo": "CGBlock stopped at negative curvature, with a line search, is worse than GD + Armijo",
}
HOW_CLAIMS_ARE_JUDGED = (
    "Losses are those that runs ended with, medians over seeds. A gap is the power of ten by which SM's loss is below "
    "the lowest of the paper's other methods at the same depth and N: +2 is a hundredth of it, and below 0 SM is "
    "behind. A run ends at the target loss at the latest and might have gone further: so a gap is only known to be no "
    "less (≥) where SM got there, and no more (≤) where another did. How gaps grow is therefore also asked of the last "
    "round before any of these runs is there."
)

Gaps = Mapping[tuple[int, int], Gap]
"""By depth and N."""


def judge(results: Sequence[PaperResult]) -> list[ClaimVerdict]:
    """All claims that these results say something about."""
    groups = by_cell(results)
    verdicts: list[ClaimVerdict] = []
    for name in SURROGATES:
        verdicts += _gap_claims(name, _gaps(name, groups, final_loss))
        if rounds := _before_any_stops(name, groups):
            early = _gaps(name, groups, partial(_median_after, rounds))
            verdicts += _told_once(early, _growth_claims(name, early, f", after {rounds} rounds"))
    verdicts += _block_claims(groups)
    verdicts += judge_own(groups)
    return verdicts


def _gaps(name: str, groups: Groups, loss: Callable[[Sequence[PaperResult]], float]) -> Gaps:
    """Only if there is something to compare with: another method at the same N, if it takes one."""
    gaps = {}
    for cell, own in groups.items():
        rivals = [
            loss(group)
            for other, group in groups.items()
            if other.contender in OTHERS
            and other.layers == cell.layers
            and other.inner_steps in (None, cell.inner_steps)
        ]
        if cell.contender == name and cell.inner_steps is not None and rivals:
            gaps[cell.layers, cell.inner_steps] = Gap.between(min(rivals), loss(own), target(own[0]))
    return gaps


def _before_any_stops(name: str, groups: Groups) -> int:
    """The last round before a run of this SM or of its rivals reaches its target; 0 if none does."""
    compared = [result for cell, own in groups.items() if cell.contender in (name, *OTHERS) for result in own]
    ends = [result.last.round for result in compared if result.status == "reached"]
    return max(0, min(ends, default=1) - 1)


def _gap_claims(name: str, gaps: Gaps) -> list[ClaimVerdict]:
    if not gaps:
        return []
    ahead = every(gap.exceeds(NOTHING) for gap in gaps.values())
    claim = ClaimVerdict("SM is ahead of the paper's other methods", SURROGATES[name], ahead, "")
    return _told_once(gaps, [claim, *_growth_claims(name, gaps)])


def _growth_claims(name: str, gaps: Gaps, when: str = "") -> list[ClaimVerdict]:
    depths, steps = _axes(gaps)
    behind = all(gap.high < 0 for gap in gaps.values())
    ways = (
        ("N, at every depth", steps, [[gaps[depth, n] for n in steps if (depth, n) in gaps] for depth in depths]),
        ("depth, at every N", depths, [[gaps[depth, n] for depth in depths if (depth, n) in gaps] for n in steps]),
    )
    claims = []
    for words, values, series in ways:
        if len(values) > 1:
            rising, claim = every(map(rises, series)), f"the gap grows with {words}{when}"
            claims.append(ClaimVerdict(claim, SURROGATES[name], rising and not behind, "", bool(rising and behind)))
    return claims


def _told_once(gaps: Gaps, verdicts: Sequence[ClaimVerdict]) -> list[ClaimVerdict]:
    """The gaps as figures of the first of these claims, which are all about them."""
    figures = f"gaps {_by_depth({key: str(gap) for key, gap in gaps.items()})}"
    return [replace(each, figures="the same gaps" if number else figures) for number, each in enumerate(verdicts)]


def _axes(keys: Collection[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """All depths and all N."""
    return sorted({depth for depth, _ in keys}), sorted({steps for _, steps in keys})


def _by_depth(texts: Mapping[tuple[int, int], str], asides: Mapping[int, str] = MappingProxyType({})) -> str:
    """One text for every N at every depth, briefly; a depth may have an aside."""
    depths, steps = _axes(texts)
    lines = [
        f"{write_layers(depth)} {', '.join(texts.get((depth, n), '–') for n in steps)}{asides.get(depth, '')}"
        for depth in depths
    ]
    return f"at N = {', '.join(map(str, steps))}: {'; '.join(lines)}"


def _block_claims(groups: Groups) -> list[ClaimVerdict]:
    armijo = {cell.layers: group for cell, group in groups.items() if cell.contender == "gd-armijo"}
    asides = {layers: f" (GD + Armijo {write_loss(final_loss(group), group)})" for layers, group in armijo.items()}
    verdicts = []
    for name, claim in SAFEGUARDS.items():
        own = {
            (cell.layers, cell.inner_steps): group
            for cell, group in groups.items()
            if cell.contender == name and cell.inner_steps is not None and cell.layers in armijo
        }
        if own:
            known = [_is_worse(group, armijo[layers]) for (layers, _), group in own.items()]
            losses = _by_depth({key: write_loss(final_loss(group), group) for key, group in own.items()}, asides)
            figures = f"worse in {known.count(True)} of {len(own)}; losses {losses}"
            verdicts.append(ClaimVerdict(claim, "CGBlock", every(known), figures))
    return verdicts


def _is_worse(own: Sequence[PaperResult], other: Sequence[PaperResult]) -> bool | None:
    """Whether its loss is higher; None where both stopped at the target."""
    mine, theirs = final_loss(own), final_loss(other)
    return None if mine == theirs == target(own[0]) else mine > theirs


def _median_after(rounds: int, results: Sequence[PaperResult]) -> float:
    return statistics.median(loss_after(rounds, result) for result in results)
