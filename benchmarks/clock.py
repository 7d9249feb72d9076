"""Taking time: only of what is meant, after a warm-up, and of things to be compared in turns."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


class Stopwatch:
    """Adds up the time spent inside `with`; what happens outside is off the clock."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._start = 0.0

    def __enter__(self) -> "Stopwatch":
        self._start = now(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += now(self._device) - self._start


def now(device: torch.device) -> float:
    """Seconds on a clock of one's own, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turns(
    actions: Sequence[Callable[[], Any]], turns: int, device: torch.device, *, warm_up: int = 1
) -> list[list[float]]:
    """Seconds of every action in every turn, A B A B …, so that a drift of the machine hits all alike."""
    for action in list(actions) * warm_up:
        action()
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(turns):
        for action, own in zip(actions, seconds, strict=True):
            start = now(device)
            action()
            own.append(now(device) - start)
    return seconds


def ratios(ours: Sequence[float], peers: Sequence[float]) -> list[float]:
    """Turn by turn, our time over the peer's; infinite where we never got there, whatever the peer did."""
    return [a if math.isinf(a) else a / b for a, b in zip(ours, peers, strict=True)]
