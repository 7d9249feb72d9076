"""Which rounds count, and what is kept of them, with a team that makes them up."""

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from surmin.losses import CrossEntropy
from surmin.simulation import measuring
from surmin.simulation.measuring import Trained, train
from surmin.simulation.operations import Operation, Total, Work
from surmin.simulation.team import Recorded


class Watched(list[Operation]):
    """A program that it can be seen of whether anybody still has it."""


class MadeUp:
    """Rounds with these losses at their beginning and end."""

    losses: list[tuple[float, float]]
    programs: list[weakref.ref[Watched]]

    def __init__(self, *_: object) -> None:
        self._rounds = iter(enumerate(self.losses, start=1))

    def warm_up(self, *_: object) -> None: ...

    def build(self, *_: object) -> list[Any]:
        return []

    def step(self, *_: object) -> Recorded:
        number, (start, end) = next(self._rounds)
        program = Watched([Work(float(number)), Total(8)])
        self.programs.append(weakref.ref(program))
        return Recorded([program], (1,), start, end, 2 * number, 3 * number, 4 * number)


def made_up(
    monkeypatch: pytest.MonkeyPatch, losses: list[tuple[float, float]], most_rounds: int,
    tell: Callable[[int, float], None] = lambda rounds, loss: None,
) -> Trained | None:  # fmt: skip
    monkeypatch.setattr(measuring, "RecordedTeam", MadeUp)
    monkeypatch.setattr(MadeUp, "losses", losses, raising=False)
    monkeypatch.setattr(MadeUp, "programs", [], raising=False)
    batch = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    return train(
        [], CrossEntropy(), *batch, "gd", {}, microbatches=1, target_loss=0.5, most_rounds=most_rounds, tell=tell
    )


@pytest.mark.parametrize(
    ("losses", "rounds"),
    [
        ([(3.0, 2.0), (2.0, 1.0), (1.0, 0.4)], 3),
        ([(3.0, math.nan), (2.0, math.nan), (1.0, math.nan), (0.4, math.nan)], 3),
        ([(3.0, 2.0), (2.0, 1.0), (1.0, 0.6), (0.6, 0.4)], None),
        ([(3.0, 2.0), (2.0, 1.0), (math.nan, math.nan)], None),
        ([(0.4, 0.3)], 0),
    ],
)
def test_rounds_count_until_the_loss_is_reached(
    losses: list[tuple[float, float]], rounds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made_up(monkeypatch, losses, most_rounds=3)
    if not rounds:
        assert (found and found.rounds) == rounds
        return
    assert found is not None and (found.rounds, found.forward_waves, found.messages, found.bytes) == (3, 6, 9, 12)
    (kind,) = found.kinds
    assert kind.count == 3 and kind.programs == [[Work(2.0), Total(8)]]


def test_no_round_but_the_last_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    def tell(rounds: int, loss: float) -> None:
        kept.append(sum(program() is not None for program in MadeUp.programs))

    found = made_up(monkeypatch, [(3.0, 2.0)] * 9 + [(2.0, 0.4)], 30, tell)
    assert found is not None and found.rounds == 10 and kept == [1] * 9
