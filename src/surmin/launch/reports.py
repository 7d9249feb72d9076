"""What a worker reports about its end, and the errors that are not its own fault."""

import json
import os
import traceback
from dataclasses import asdict, dataclass
from typing import Literal

from surmin.exit_codes import INTERRUPTED, OUTPUT_CLOSED, UNEXPECTED, USER_ERROR, WORKER_LOST

DEBUG_VARIABLE = "SURMIN_DEBUG"
"""Environment variable that shows where an error comes from."""

ReportKind = Literal["error", "interrupted", "peer lost", "peer late"]
LONGEST = 2000


class PeerError(RuntimeError):
    """Another worker is gone, or has not answered in time.

    Args:
        late: whether it did not answer, rather than being gone.
        peer: its rank, if known.
        detail: the original complaint.
    """

    def __init__(self, late: bool, peer: int | None, detail: str) -> None:
        self.late, self.peer, self.detail = late, peer, detail
        what = "timed out waiting for" if late else "lost"
        super().__init__(f"{what} {'another worker' if peer is None else f'worker {peer}'} ({detail})")


@dataclass(frozen=True)
class Report:
    """Why a worker ended before its work was done.

    Attributes:
        kind: whether the fault is its own ("error") or another worker's.
        message: one line.
        code: its exit code.
        peer: the worker it was waiting for, if known.
        resumable: whether the same work may go on from a checkpoint; not if something was refused.
    """

    kind: ReportKind
    message: str
    code: int
    peer: int | None = None
    resumable: bool = True

    @classmethod
    def of(cls, error: BaseException) -> "Report":
        """The report of a worker that ends because of this error."""
        if isinstance(error, PeerError):
            return cls("peer late" if error.late else "peer lost", _short(str(error)), WORKER_LOST, error.peer)
        if isinstance(error, KeyboardInterrupt):
            return cls("interrupted", "interrupted", INTERRUPTED)
        if isinstance(error, BrokenPipeError):
            return cls("error", "nothing reads the standard output any more", OUTPUT_CLOSED, resumable=False)
        if isinstance(error, OSError | ValueError):
            return cls("error", _short(one_line(error)), USER_ERROR, resumable=isinstance(error, OSError))
        return cls("error", _short(f"{type(error).__name__}: {error}") + _place(error), UNEXPECTED)

    @classmethod
    def from_json(cls, line: bytes) -> "Report":
        """The report that `to_json` wrote."""
        return cls(**json.loads(line))

    def to_json(self) -> bytes:
        """One line."""
        return json.dumps(asdict(self)).encode() + b"\n"


def one_line(error: Exception) -> str:
    """An error as the user reads it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _short(message: str) -> str:
    return " ".join(message.split())[:LONGEST]


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
