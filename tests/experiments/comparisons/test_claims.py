import math
from dataclasses import replace

import pytest

from surmin.experiments.comparisons.claim import ClaimVerdict
from surmin.experiments.comparisons.claims import HOW_CLAIMS_ARE_JUDGED, judge
from surmin.experiments.comparisons.gaps import Gap
from surmin.experiments.comparisons.paper_runs import PaperResult
from surmin.plots.paper_tables import verdict_table
from tests.experiments.comparisons.test_paper import made, reached, stopping_at


def verdicts(results: list[PaperResult]) -> dict[tuple[str, str], bool | None]:
    return {(each.claim, each.subject): each.holds for each in judge(results)}


def figures(results: list[PaperResult], claim: str) -> str:
    return next(each.figures for each in judge(results) if claim in each.claim)


def test_claims_that_hold_and_claims_that_do_not() -> None:
    results = [
        made(2, "gd", None, [2.0, 1.0]), made(3, "gd", None, [2.0, 1.0]),
        made(2, "sm", 1, [2.0, 0.1]), made(2, "sm", 2, [2.0, 0.01]),
        made(3, "sm", 1, [2.0, 0.01]), made(3, "sm", 2, [2.0, 0.1]),
        made(2, "sm-paper", 1, [2.0, 1.5]), made(2, "sm-paper", 2, [2.0, None]),
    ]  # fmt: skip
    found = verdicts(results)
    assert found["SM is ahead of the paper's other methods", "our SM"]
    assert not found["the gap grows with N, at every depth", "our SM"]  # it falls at 3 layers
    assert not found["the gap grows with depth, at every N", "our SM"]  # it falls at N = 2
    assert not found["SM is ahead of the paper's other methods", "Appendix A's SM"]
    growing = [
        *results[:3],
        made(2, "sm", 2, [2.0, 0.01]),
        made(3, "sm", 1, [2.0, 0.05]),
        made(3, "sm", 2, [2.0, 1e-3]),
    ]
    assert verdicts(growing)["the gap grows with N, at every depth", "our SM"]
    assert verdicts(growing)["the gap grows with depth, at every N", "our SM"]


def test_losses_below_the_target_are_equal() -> None:
    """Where SM stopped at the target, its gap could be larger; where both did, there is nothing to tell."""
    claim, ahead = "the gap grows with N, at every depth", "SM is ahead of the paper's other methods"
    stopped = [made(2, "gd", None, [1.0]), reached(2, "sm", 1, [1e-7]), reached(2, "sm", 2, [1e-8])]
    assert verdicts(stopped)[claim, "our SM"] is None and verdicts(stopped)[ahead, "our SM"] is True
    assert figures(stopped, ahead) == "gaps at N = 1, 2: 2 layers ≥ +6.00, ≥ +6.00"
    assert not any("after" in words and "gap" in words for words, _ in verdicts(stopped))  # there is no round before 0
    grew = [stopped[0], made(2, "sm", 1, [1e-4]), stopped[2]]
    assert verdicts(grew)[claim, "our SM"] is True
    fell = [stopped[0], stopped[1], made(2, "sm", 2, [1e-4])]
    assert verdicts(fell)[claim, "our SM"] is False
    both = [made(2, "gd", None, [1e-7]), *stopped[1:]]
    assert verdicts(both)[ahead, "our SM"] is None
    less = [both[0], made(2, "sm", 1, [1e-4]), made(2, "sm", 2, [1e-5])]
    assert verdicts(less)[claim, "our SM"] is None
    assert figures(less, ahead) == "gaps at N = 1, 2: 2 layers ≤ -2.00, ≤ -1.00"
    behind = [made(2, "gd", None, [1e-7]), made(2, "sm", 1, [1e-4])]
    assert verdicts(behind)[ahead, "our SM"] is False
    early = next(key for key in verdicts(both) if "no more messages" in key[0])
    assert verdicts(both)[early] is None and verdicts(stopped)[early] is True


def test_gaps_are_compared_before_the_first_run_stops() -> None:
    """Where all end at the target, what had been reached by then still tells them apart."""
    results = [
        made(2, "gd", None, [2.0] * 5), made(3, "gd", None, [2.0] * 5),
        reached(2, "sm", 1, [2.0, 0.2, 0.02, 1e-7]), reached(2, "sm", 2, [2.0, 0.1, 0.01, 1e-3, 1e-7]),
        reached(3, "sm", 1, [2.0, 0.5, 0.5, 0.4, 1e-7]), reached(3, "sm", 2, [2.0, 0.4, 0.2, 0.1, 1e-7]),
    ]  # fmt: skip
    found = verdicts(results)
    for claim, holds in (("N, at every depth", True), ("depth, at every N", False)):
        assert found[f"the gap grows with {claim}", "our SM"] is None
        assert found[f"the gap grows with {claim}, after 2 rounds", "our SM"] is holds
    assert not any("rounds" in claim and "gap" in claim for claim, _ in verdicts([results[0], made(2, "sm", 1, [1.0])]))
    shorter = [made(2, "gd", None, [2.0, 2.0]), made(2, "adam", None, [2.0, None]), *results[2:4]]
    assert ("the gap grows with N, at every depth, after 2 rounds", "our SM") in verdicts(shorter)


def test_equal_losses_are_neither_growth_nor_a_lead() -> None:
    same = [made(2, "gd", None, [1.0]), made(2, "sm", 1, [0.1]), made(2, "sm", 2, [0.1])]
    assert verdicts(same)["the gap grows with N, at every depth", "our SM"] is False
    level = [made(2, "gd", None, [1.0]), made(2, "sm", 1, [1.0])]
    assert verdicts(level)["SM is ahead of the paper's other methods", "our SM"] is False
    blocks = [made(2, "gd-armijo", None, [1.0]), made(2, "cgblock", 1, [1.0])]
    assert verdicts(blocks)["CGBlock as the paper describes it is worse than GD + Armijo", "CGBlock"] is False


def test_rivals_that_take_inner_steps_are_those_at_the_same_number() -> None:
    results = [made(2, "gd", None, [1.0]), made(2, "sm", 1, [0.1]), made(2, "cgblock", 2, [0.01])]
    assert verdicts(results)["SM is ahead of the paper's other methods", "our SM"] is True


def test_our_own_claims_are_of_the_greatest_depth() -> None:
    found = verdicts([made(layers, "sm", 1, [2.0, 0.5, 1e-4]) for layers in (2, 3)])
    assert {subject for _, subject in found if "layers" in subject} == {"our SM, 3 layers, N = 1"}


def test_runs_of_fewer_rounds_have_no_early_loss() -> None:
    """Where a run was given no 50 rounds, its last loss is not the loss after 50; where it stopped before, it is."""

    def early(*results: PaperResult) -> tuple[bool | None, str]:
        return next((each.holds, each.figures) for each in judge(results) if "no more messages" in each.claim)

    adam = made(2, "adam", None, [2.0, *[0.1] * 49])
    short, long = (made(2, "sm", 1, [2.0, *[0.01] * rounds]) for rounds in (49, 50))
    assert early(short, adam) == (None, "it was given fewer than 50 rounds")
    assert early(long, adam)[0] is True and early(long, short, adam)[0] is None
    assert early(reached(2, "sm", 1, [2.0, 1e-7]), adam)[0] is True
    assert early(made(2, "sm", 1, [2.0, None]), adam)[0] is False


def test_claims_on_messages() -> None:
    subject = "our SM, 2 layers, N = 1"
    sm = made(2, "sm", 1, [2.0, 0.5, *[1e-4] * 49], rate=10)
    sixth = next(each for each in judge([sm]) if "sixth" in each.claim)
    assert sixth.holds and sixth.figures == "20 messages; no other gets there"
    claim = sixth.claim
    slow = made(2, "adam", None, [2.0] * 20 + [1e-3], rate=6)
    assert verdicts([sm, slow])[claim, subject]
    assert not verdicts([sm, made(2, "adam", None, [2.0] * 19 + [1e-3], rate=6)])[claim, subject]
    early = next(claim for claim, _ in verdicts([sm, slow]) if "no more messages" in claim)
    assert verdicts([sm, slow])[early, subject]
    assert not verdicts([sm, made(2, "adam", None, [2.0, 1e-5], rate=10)])[early, subject]
    assert verdicts([sm, made(2, "adam", None, [2.0, 1e-5], rate=11)])[early, subject]


def test_who_never_gets_there_has_no_claim_on_messages() -> None:
    """Nobody can tell where no other gets there either."""
    for ours in (made(2, "sm", 1, [2.0, 0.9]), made(2, "sm", 1, [2.0, None])):
        for others, verdict in (([], None), ([1.4], None), ([1e-4], False)):
            claims = verdicts([ours, *(made(2, "adam", None, [2.0, loss]) for loss in others)])
            assert [holds for (claim, _), holds in claims.items() if "sixth" in claim] == [verdict]
    assert not any(
        holds for (claim, _), holds in verdicts([made(2, "sm", 1, [2.0, None])]).items() if "messages" in claim
    )


def test_messages_to_a_loss_below_the_target_cannot_be_told() -> None:
    """Runs stop at 0.01: what they would have sent until 0.001 nobody knows, also if one of them jumped there."""
    results = [reached(2, "sm", 1, [2.0, 5e-4]), reached(2, "adam", None, [2.0, 2.0, 9e-3])]
    assert [each.holds for each in judge(results) if "sixth" in each.claim] == [True]
    (sixth,) = (each for each in judge([stopping_at(0.01, each) for each in results]) if "sixth" in each.claim)
    assert (sixth.holds, sixth.figures) == (None, "runs stop at a loss of 0.01")


def test_where_nobody_sends_messages_there_is_no_claim_on_them() -> None:
    alone = [made(1, "sm", 1, [2.0, 1e-4], rate=0), made(1, "adam", None, [2.0, 2.0, 1e-4], rate=0)]
    assert [each.holds for each in judge(alone) if "sixth" in each.claim] == [None]


def test_the_same_gaps_are_told_once_by_depth() -> None:
    results = [
        made(2, "gd", None, [2.0, 1.0]), made(8, "gd", None, [2.0, 1.0]),
        made(2, "sm-paper", 1, [2.0, 10.0]), made(2, "sm-paper", 10, [2.0, None]), made(8, "sm-paper", 10, [2.0, 0.1]),
    ]  # fmt: skip
    assert [each.figures for each in judge(results)][:3] == [
        "gaps at N = 1, 10: 2 layers -1.00, it has no loss; 8 layers –, +1.00", "the same gaps", "the same gaps"
    ]  # fmt: skip


def test_a_gap_that_only_shrinks_below_nothing_does_not_grow_as_claimed() -> None:
    """From behind by two powers of ten to behind by one is no lead that grows; to ahead by one it is."""
    claim = "the gap grows with depth, at every N"
    others = [made(2, "gd", None, [1.0]), made(3, "gd", None, [1.0]), made(2, "sm-paper", 1, [100.0])]
    behind, ahead = (next(each for each in judge([*others, made(3, "sm-paper", 1, [loss])]) if each.claim == claim)
                     for loss in (10.0, 0.1))  # fmt: skip
    assert behind.holds is False and verdict_table([behind]).rows[0][2] == "behind everywhere, by less"
    assert (ahead.holds, ahead.verdict) == (True, "holds")
    words = [ClaimVerdict("", "", holds, "").verdict for holds in (True, False, None)]
    assert words == ["holds", "does not hold", "cannot be told"]


@pytest.mark.parametrize(
    ("own", "other", "verdict"),
    [(1e-7, 1e-8, None), (1e-7, 0.5, False), (0.5, 1e-7, True), (0.5, 0.25, True), (0.25, 0.25, False)],
)
def test_cgblock_is_not_compared_where_both_stopped_at_the_target(
    own: float, other: float, verdict: bool | None
) -> None:
    claim = "CGBlock as the paper describes it is worse than GD + Armijo"
    results = [made(2, "gd-armijo", None, [other]), made(2, "cgblock", 1, [own])]
    assert verdicts(results)[claim, "CGBlock"] is verdict
    worse_elsewhere = [made(3, "gd-armijo", None, [0.5]), made(3, "cgblock", 1, [0.75])]
    assert verdicts([*results, *worse_elsewhere])[claim, "CGBlock"] is verdict


def test_losses_of_cgblock_are_words_where_there_is_no_number() -> None:
    results = [
        reached(2, "gd-armijo", None, [1e-8]), made(3, "gd-armijo", None, [0.5]),
        made(2, "cgblock", 1, [0.25]), made(3, "cgblock", 1, [None]),
        replace(made(3, "cgblock", 2, [None]), status="failed"),
    ]  # fmt: skip
    assert figures(results, "CGBlock as the paper") == (
        "worse in 3 of 3; losses at N = 1, 2: 2 layers 0.25, – (GD + Armijo ≤ 1e-06); "
        "3 layers diverged, failed (GD + Armijo 0.5)"
    )


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (Gap.between(1.0, 0.1, 1e-6), "+1.00"), (Gap.between(1.0, 1e-6, 1e-6), "≥ +6.00"),
        (Gap.between(1e-6, 1.0, 1e-6), "≤ -6.00"), (Gap.between(1e-6, 1e-6, 1e-6), "both at the target"),
        (Gap.between(math.inf, 1.0, 1e-6), "no other has a loss"),
        (Gap.between(1.0, math.inf, 1e-6), "it has no loss"),
    ],
)  # fmt: skip
def test_gaps_in_words(gap: Gap, words: str) -> None:
    assert str(gap) == words


def test_no_verdict_is_infinite() -> None:
    diverged = [made(2, name, 1, [2.0, None]) for name in ("sm", "sm-trips", "sm-paper", "cgblock")]
    found = judge([*diverged, made(2, "gd-armijo", None, [2.0, None]), made(2, "adam", None, [2.0, None])])
    assert len(found) == 7 and not any("inf" in each.figures for each in found)
    assert figures(diverged, "sixth") == "not reached; no other gets there"
    assert (
        figures(diverged, "no more messages")
        == "diverged, 6 messages a round; the best of those others, cgblock (N = 1): diverged"
    )


def test_what_a_gap_is_is_said() -> None:
    for words in ("below 0 SM is behind", "(≥)", "(≤)"):
        assert words in HOW_CLAIMS_ARE_JUDGED
