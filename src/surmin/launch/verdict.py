"""Which worker is at fault, from what is known about all of them. No processes here, only rules."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from surmin.exit_codes import DIVERGED, INTERRUPTED, SUCCESS, USER_ERROR, WORKER_LOST
from surmin.launch.deadlines import Deadlines
from surmin.launch.reports import Report, ReportKind

ENDED = "the other workers were ended"

Condition = ReportKind | Literal["running", "finished", "killed", "aborted"]


@dataclass(frozen=True)
class State:
    """What is known of one worker.

    Attributes:
        rank: which one.
        code: its exit code, negative for a signal; None while it runs.
        report: what it reported about its end.
        complaint: the last line it wrote to stderr, if that is kept.
    """

    rank: int
    code: int | None = None
    report: Report | None = None
    complaint: str = ""

    @property
    def condition(self) -> Condition:
        """Its condition."""
        if self.report:
            return self.report.kind
        if self.code is None:
            return "running"
        if self.code == -signal.SIGABRT:
            return "aborted"  # this is how NCCL ends a process whose peer does not answer
        if self.code < 0:
            return "killed"
        if self.code == INTERRUPTED:
            return "interrupted"
        return "finished" if self.code in (SUCCESS, DIVERGED) else "error"


@dataclass(frozen=True)
class Verdict:
    """The exit code for the shell; what went wrong, in one line; whether the run can usefully be resumed."""

    code: int
    message: str = ""
    resumable: bool = False


def patience(states: Sequence[State], interrupts: int, deadlines: Deadlines) -> float:
    """How many seconds the workers still running may go on, after the latest news."""
    conditions = {state.condition for state in states}
    if "killed" in conditions:  # no better reason can come
        return 0
    if "error" in conditions or interrupts > 1:
        return deadlines.grace
    if conditions & {"aborted", "peer late"}:  # others may have started to wait later
        return deadlines.telling
    if "peer lost" in conditions:
        return deadlines.grace
    return deadlines.waiting if interrupts or conditions & {"finished", "interrupted"} else float("inf")


def judge(states: Sequence[State], interrupted: bool, waiting: float) -> Verdict:
    """Name what ended the run, or why it must be ended. A worker that only lost another is named last.

    Args:
        states: of all workers, in the order in which they changed; those still running have used up their patience.
        interrupted: whether the user asked for the end.
        waiting: how long a worker may keep others waiting, in seconds.
    """

    def those(condition: Condition) -> list[State]:
        return [state for state in states if state.condition == condition]

    if found := those("killed") or those("error"):
        return _fault_of(found, states)
    ended = all(state.condition == "finished" for state in states)
    if those("interrupted") or (interrupted and not ended):  # it may have come after the last round
        orderly = all(state.code in (SUCCESS, INTERRUPTED) and not state.report for state in states)
        return Verdict(INTERRUPTED, "" if orderly else "interrupted")
    lost = {state.report.peer for state in those("peer lost") if state.report}
    aborted = [state for state in those("aborted") if state.rank not in lost]  # maybe because of a hang
    if those("running") and (aborted or those("peer late") or those("finished")):
        return _silence_of(those("running"), those("peer late") or aborted, waiting)
    if found := those("aborted") or those("peer late") or those("peer lost"):
        return _fault_of(found, states)
    return Verdict(DIVERGED if any(state.code == DIVERGED for state in states) else SUCCESS)


def _silence_of(running: Sequence[State], waited: Sequence[State], waiting: float) -> Verdict:
    """The silence of the workers others waited for by name, or of all that still run if no names are known.

    Nobody can tell whether a worker that was aborted had waited for them.
    """
    awaited = {state.report.peer for state in waited if state.report}
    silent = [state for state in running if state.rank in awaited] or running
    names = " and ".join(f"worker {rank}" for rank in sorted(state.rank for state in silent))
    aborted = next((state.rank for state in waited if state.condition == "aborted"), None)
    silence = f"within {waiting:g} s" if aborted is None else f"when worker {aborted} was aborted"
    return Verdict(WORKER_LOST, f"{names} did not answer {silence}; {ENDED}", resumable=True)


def _fault_of(found: Sequence[State], states: Sequence[State]) -> Verdict:
    """The first one's fault; if all say the same, no single worker's."""
    worker = f"worker {found[0].rank}"
    code, report, complaint = found[0].code, found[0].report, found[0].complaint
    resumable = report.resumable if report else code != USER_ERROR
    if report:
        shared = len(found) == len(states) > 1 and len({state.report for state in found}) == 1
        code, message = report.code, report.message if shared else f"{worker}: {report.message}"
    elif code is not None and code < 0:
        code, message = WORKER_LOST, f"{worker} was killed by {signal.Signals(-code).name}; {ENDED}"
    else:
        message = f"{worker} ended with exit code {code}" + (f": {complaint}" if complaint else "")
    return Verdict(code or WORKER_LOST, message, resumable)
