import math
import signal

import pytest

from surmin.launch.deadlines import Deadlines
from surmin.launch.reports import Report
from surmin.launch.verdict import State, Verdict, judge, patience

ENDED = "the other workers were ended"


def finished(rank: int) -> State:
    return State(rank, 0)


def killed(rank: int, number: int = signal.SIGKILL) -> State:
    return State(rank, -number)


def failed(rank: int, message: str = "it broke", code: int = 2) -> State:
    return State(rank, code, Report("error", message, code, resumable=code != 2))


def raised(rank: int, error: Exception) -> State:
    report = Report.of(error)
    return State(rank, report.code, Report.from_json(report.to_json()))


def lost(rank: int, peer: int | None = None) -> State:
    return State(rank, 3, Report("peer lost", "lost another worker", 3, peer))


def late(rank: int, peer: int | None = None) -> State:
    return State(rank, 3, Report("peer late", "timed out waiting for another worker", 3, peer))


def interrupted(rank: int) -> State:
    return State(rank, 130)


def running(rank: int) -> State:
    return State(rank)


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ([finished(0), finished(1)], Verdict(0)),
        ([State(0, 4), State(1, 4)], Verdict(4)),
        ([lost(0), killed(1)], Verdict(3, f"worker 1 was killed by SIGKILL; {ENDED}", True)),
        ([lost(0), failed(2), killed(1), running(3)], Verdict(3, f"worker 1 was killed by SIGKILL; {ENDED}", True)),
        ([lost(0), failed(1), running(2)], Verdict(2, "worker 1: it broke")),
        ([failed(1, "first", 1), failed(0, "second"), finished(2)], Verdict(1, "worker 1: first", True)),
        (
            [lost(0), raised(1, OSError(28, "is full", "a")), running(2)],
            Verdict(2, "worker 1: a: is full", True),
        ),
        ([lost(0), raised(1, ValueError("no such thing"))], Verdict(2, "worker 1: no such thing")),
        ([lost(0), raised(1, KeyError("x"))], Verdict(1, "worker 1: KeyError: 'x'", True)),
        ([failed(0), failed(1)], Verdict(2, "it broke")),
        ([failed(0), failed(1), lost(2)], Verdict(2, "worker 0: it broke")),
        ([State(0, 7), lost(1)], Verdict(7, "worker 0 ended with exit code 7", True)),
        ([State(0, 2, None, "last words"), lost(1)], Verdict(2, "worker 0 ended with exit code 2: last words")),
        ([late(1), lost(0), running(2)], Verdict(3, f"worker 2 did not answer within 9 s; {ENDED}", True)),
        (
            [late(1), running(3), running(2)],
            Verdict(3, f"worker 2 and worker 3 did not answer within 9 s; {ENDED}", True),
        ),
        ([late(1, peer=2), running(3), running(2)], Verdict(3, f"worker 2 did not answer within 9 s; {ENDED}", True)),
        (
            [late(0, peer=1), late(1, peer=2), running(2)],
            Verdict(3, f"worker 2 did not answer within 9 s; {ENDED}", True),
        ),
        ([finished(0), running(1)], Verdict(3, f"worker 1 did not answer within 9 s; {ENDED}", True)),
        ([killed(0, signal.SIGABRT), late(1)], Verdict(3, f"worker 0 was killed by SIGABRT; {ENDED}", True)),
        (
            [killed(0, signal.SIGABRT), late(1), running(2)],
            Verdict(3, f"worker 2 did not answer within 9 s; {ENDED}", True),
        ),
        (
            [killed(0, signal.SIGABRT), running(1)],
            Verdict(3, f"worker 1 did not answer when worker 0 was aborted; {ENDED}", True),
        ),
        (
            [killed(0, signal.SIGABRT), lost(1, peer=0), running(2)],
            Verdict(3, f"worker 0 was killed by SIGABRT; {ENDED}", True),
        ),
        ([killed(0, signal.SIGABRT), lost(1)], Verdict(3, f"worker 0 was killed by SIGABRT; {ENDED}", True)),
        ([lost(0), finished(1)], Verdict(3, "worker 0: lost another worker", True)),
        ([lost(1), running(0)], Verdict(3, "worker 1: lost another worker", True)),
        ([interrupted(0), finished(1)], Verdict(130)),
        ([interrupted(0), lost(1)], Verdict(130, "interrupted")),
    ],
)
def test_who_is_at_fault(states: list[State], verdict: Verdict) -> None:
    assert judge(states, interrupted=False, waiting=9) == verdict


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ([interrupted(0), interrupted(1)], Verdict(130)),
        ([interrupted(0), lost(1)], Verdict(130, "interrupted")),
        ([interrupted(0), running(1)], Verdict(130, "interrupted")),
        ([interrupted(0), failed(1)], Verdict(2, "worker 1: it broke")),
        ([finished(0), finished(1)], Verdict(0)),
        ([State(0, 4), State(1, 4)], Verdict(4)),
        ([finished(0), running(1)], Verdict(130, "interrupted")),
    ],
)
def test_after_an_interrupt(states: list[State], verdict: Verdict) -> None:
    assert judge(states, interrupted=True, waiting=9) == verdict


@pytest.mark.parametrize(
    ("states", "interrupts", "seconds"),
    [
        ([running(0), running(1)], 0, math.inf),
        ([running(0), running(1)], 1, 240),
        ([running(0), running(1)], 2, 1),
        ([running(0), finished(1)], 0, 240),
        ([running(0), lost(1)], 0, 1),
        ([running(0), failed(1)], 0, 1),
        ([running(0), killed(1)], 1, 0),
        ([running(0), late(1)], 0, 24),
        ([running(0), late(1), failed(2)], 0, 1),
        ([running(0), killed(1, signal.SIGABRT)], 0, 24),
    ],
)
def test_patience(states: list[State], interrupts: int, seconds: float) -> None:
    assert patience(states, interrupts, Deadlines(300)) == seconds
