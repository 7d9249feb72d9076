"""The rows of `metrics.jsonl`: one for the start and one for every evaluation; counters are cumulative."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from surmin.experiments.files import finite, write_text
from surmin.report import StepReport


@dataclass(frozen=True)
class Evaluation:
    """How good the network is.

    Attributes:
        loss: mean over the whole training set.
        test_accuracy: share of the test labels that it gets right, where there are labels.
        test_loss: mean over the whole test set, where there are none.
    """

    loss: float
    test_accuracy: float | None = None
    test_loss: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of `metrics.jsonl`; None (null there) if a figure does not apply or is not finite.

    Attributes:
        round: outer iterations done.
        loss: training loss, over the whole training set.
        test_accuracy: share of test labels the network gets right.
        test_loss: over the whole test set, in the test accuracy's place where targets are numbers and no labels.
        seconds: time spent training, until the last worker was done, evaluation excluded.
        gradient_equivalents: work, in forward and backward passes over the batch, counted from operations.
        messages: sent between stages.
        bytes: sent between stages.
        forward_waves: upward passes through all stages, with activations (acceptance tests included) or with tangents.
        accepted: whether this round changed the parameters.
        damping: λ of this round's step.
        reduction_ratio: actual over predicted decrease.
    """

    round: int
    loss: float | None
    test_accuracy: float | None = None
    test_loss: float | None = None
    seconds: float = 0.0
    gradient_equivalents: float = 0.0
    messages: int = 0
    bytes: int = 0
    forward_waves: int = 0
    accepted: bool | None = None
    damping: float | None = None
    reduction_ratio: float | None = None

    @classmethod
    def start(cls, evaluation: Evaluation) -> "Row":
        """Row 0."""
        return cls(0, None).evaluated(evaluation)

    def next(self, report: StepReport, seconds: float) -> "Row":
        """One round later, and not evaluated."""
        return Row(
            round=self.round + 1,
            loss=None,
            seconds=self.seconds + seconds,
            gradient_equivalents=self.gradient_equivalents + report.gradient_equivalents,
            messages=self.messages + report.messages,
            bytes=self.bytes + report.bytes_sent,
            forward_waves=self.forward_waves + report.forward_waves,
            accepted=report.accepted,
            damping=finite(report.damping),
            reduction_ratio=finite(report.reduction_ratio),
        )

    def evaluated(self, evaluation: Evaluation) -> "Row":
        """The same, with how good the network is."""
        return replace(self, **{name: finite(value) for name, value in vars(evaluation).items()})

    def lost(self) -> "Row":
        """The row after a round that left nothing finite, or that torch could not go through with."""
        return replace(self, round=self.round + 1, loss=None, test_accuracy=None, test_loss=None, accepted=False)

    def select(self, figures: Iterable[str]) -> dict[str, Any]:
        """These of its figures, by name."""
        return {name: getattr(self, name) for name in figures}


FIGURES = tuple(field.name for field in fields(Row) if field.name != "test_loss")
"""Of problems with labels."""


OPTIONAL = {field.name for field in fields(Row) if "None" in str(field.type)}


def figures_of(rows: Iterable[Row]) -> Sequence[str]:
    """`FIGURES`, with the test loss in the test accuracy's place where these rows of one problem have that."""
    has_labels = all(row.test_loss is None for row in rows)
    return FIGURES if has_labels else ["test_loss" if name == "test_accuracy" else name for name in FIGURES]


def append_row(path: Path, row: Row) -> None:
    """Add one line, and give it to the operating system at once."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(row))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace the file by these rows."""
    write_text(path, "".join(map(_line, rows)))


def read_rows(path: Path) -> list[Row]:
    """All complete rows; a last line that was cut off is left out.

    Raises:
        ValueError: if the file cannot be read or another line is not a row.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    rows: list[Row] = []
    for number, line in enumerate(lines[:-1]):
        try:
            row = Row(**_numbers(json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: line {number + 1} is not a row of metrics") from error
        if row.round <= rows[-1].round if rows else row.round != 0:
            wanted = f"a round after {rows[-1].round}" if rows else "round 0"
            raise ValueError(f"{path}: line {number + 1} should describe {wanted}, it says {row.round}")
        rows.append(row)
    return rows


def _numbers(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or any(isinstance(value, str | list | dict) for value in values.values()):
        raise ValueError("not a table of numbers")
    for name, value in values.items():
        if (value is None and name not in OPTIONAL) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name} is not a number")
    return values


def _line(row: Row) -> str:
    return json.dumps(row.select(figures_of([row])), allow_nan=False) + "\n"
