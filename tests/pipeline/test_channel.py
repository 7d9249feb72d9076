"""The sending end of a channel between workers, with messages that arrive when they are waited for."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from surmin.pipeline.channel import MAX_DIMENSIONS, MAX_TENSORS, MOST_UNDERWAY, Route, Sender, TensorSpec

PAIR: TensorSpec = (torch.float32, (2,))


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Which messages were begun and waited for, in order."""
    found: list[tuple[str, float]] = []

    def begin(tensor: Tensor, *_: object, **__: object) -> Any:
        number = float(tensor.flatten()[0])
        found.append(("begun", number))
        return SimpleNamespace(wait=lambda: found.append(("waited for", number)))

    monkeypatch.setattr("torch.distributed.isend", begin)
    return found


def sender(shapes: list[TensorSpec] | None) -> Sender:
    route: Any = Route.of_processor
    return Sender(route(None), 1, 1, shapes)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="cpu")


@pytest.mark.parametrize("most", [2, None])
def test_only_so_many_messages_are_under_way(events: list[tuple[str, float]], most: int | None) -> None:
    own = sender([PAIR])
    if most:
        own.prepare(most)
    most = most or MOST_UNDERWAY
    for number in range(most + 1):
        own.send((zeros(2) + number,))
    assert events == [*(("begun", number) for number in range(most)), ("waited for", 0), ("begun", most)]
    events.clear()
    own.flush()
    assert events == [("waited for", number) for number in range(1, most + 1)]


@pytest.mark.parametrize(("message", "complaint"), [
    ([zeros(1)] * (MAX_TENSORS + 1), "a message between stages has at most 4 tensors, got 5"),
    ([zeros(1), zeros(*[1] * (MAX_DIMENSIONS + 1))], r"type torch.float32 and shape \[1, .*\] cannot be sent"),
    ([zeros(3, dtype=torch.complex64)], r"type torch.complex64 and shape \[3\] cannot be sent"),
])  # fmt: skip
def test_nothing_is_sent_of_what_no_header_can_tell(
    events: list[tuple[str, float]], message: list[Tensor], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        sender(None).send(tuple(message))
    assert events == []


@pytest.mark.parametrize("message", [(zeros(3),), (zeros(2, dtype=torch.float64),), (zeros(2), zeros(2))], ids=len)
def test_messages_of_a_channel_are_alike(events: list[tuple[str, float]], message: tuple[Tensor, ...]) -> None:
    with pytest.raises(RuntimeError, match=r"a message of shapes .* after others of .*float32, \(2,\)"):
        sender([PAIR]).send(message)
    assert events == []
