"""How a claim about a grid stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surmin.experiments.comparisons.paper_runs import Cell, PaperResult

WORDS = {True: "holds", False: "does not hold", None: "cannot be told"}
Groups = Mapping[Cell, Sequence[PaperResult]]
"""Results by cell."""


@dataclass(frozen=True)
class ClaimVerdict:
    """How a claim stands.

    Attributes:
        claim: what is claimed.
        subject: about whom.
        holds: whether it does; None if runs ended too early to tell.
        figures: the figures that show it.
        is_catching_up: whether gaps grow as claimed, but only to a smaller lag.
    """

    claim: str
    subject: str
    holds: bool | None
    figures: str
    is_catching_up: bool = False

    @property
    def verdict(self) -> str:
        """In words."""
        return "behind everywhere, by less" if self.is_catching_up else WORDS[self.holds]


def write_layers(depth: int) -> str:
    """A depth in words."""
    return f"{depth} layer{'' if depth == 1 else 's'}"
