"""Messages under way, in the time of a model: when they leave and when they arrive.

Times are numbers, or arrays with one entry for each of several kinds of links that are handled at once.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surmin.pipeline.comparison import STATUS_BYTES

Time = Any
"""A float, or an array over kinds of links."""
HEADER_BYTES = 52
"""TCP and IP headers in every packet."""
WORD_BYTES = 64
"""Size of gloo's word that a receive was posted."""


@dataclass(frozen=True)
class LinkKind:
    """A kind of links: one from every worker to every other, each way, first in, first out.

    Attributes:
        latency: seconds one way.
        rate: bits per second.
        packet: bytes of a packet, including its header of 52.
    """

    latency: Time
    rate: Time
    packet: Time = 1500

    @property
    def byte_seconds(self) -> Time:
        """Seconds that a byte occupies a link, including its share of the headers."""
        return 8 / self.rate * self.packet / (self.packet - HEADER_BYTES)

    def packets(self, size: int) -> int:
        """Packets of a message, for links of one kind: word that it is waited for, its own, and an answer to each."""
        return 2 * (1 + math.ceil(size / (self.packet - HEADER_BYTES)))

    def each(self) -> "list[LinkKind]":
        """Its kinds, one by one."""
        columns = np.broadcast_arrays(*(np.atleast_1d(own) for own in (self.latency, self.rate, self.packet)))
        return [LinkKind(*map(float, kind)) for kind in zip(*columns, strict=True)]

    @classmethod
    def all_of(cls, kinds: "Sequence[LinkKind]") -> "LinkKind":
        """Several kinds as arrays."""
        return cls(*(np.array([getattr(kind, name) for kind in kinds]) for name in ("latency", "rate", "packet")))


@dataclass
class _Channel:
    """From one worker to another, one wave's messages in the order they were sent."""

    # posted: when the sender knows that a message can go
    sent: list[tuple[Time, int]] = field(default_factory=list)
    posted: list[Time] = field(default_factory=list)
    left: list[Time] = field(default_factory=list)
    arrivals: list[Time] = field(default_factory=list)
    received: int = 0
    flushed: int = 0


_Departure = tuple[int, int, _Channel, int]
"""Source, target, channel and bytes."""


class Wires:
    """A message leaves a worker when it is ready and its link free; it arrives bytes / rate and a latency later.

    A late message, whose receive is posted only when needed, waits for the word that it was. That word takes the link
    the other way, behind the messages on it.

    Args:
        links: between all workers.
        workers: number of workers.
        in_order: whether calls come in order of time, including `release`; late messages are then put on a link when
            they leave, as they should be. Otherwise they are put there as soon as it is known when they leave.
    """

    def __init__(self, links: LinkKind, workers: int, *, in_order: bool = False) -> None:
        self._links = links
        self._workers = workers
        self._in_order = in_order
        self._leaving: list[tuple[float, int, _Departure]] = []
        self._departures = 0
        self._free: dict[tuple[int, int], Time] = defaultdict(lambda: np.zeros_like(links.latency, dtype=float))
        self._channels: dict[tuple[int, int, str], _Channel] = defaultdict(_Channel)
        self._told: list[list[Time]] = [[] for _ in range(workers)]
        self._latest: dict[int, tuple[Time, Time, Time]] = {}
        self._latest_on_the_way: dict[tuple[int, int], list[Time]] = defaultdict(list)

    def send(self, source: int, target: int, wave: str, size: int, now: Time, *, late: bool) -> None:
        """A message is ready."""
        channel = self._channels[source, target, wave]
        channel.sent.append((now, size))
        if not late:
            channel.posted.append(now)
        self._start(source, target, channel)

    def post(self, source: int, target: int, wave: str, now: Time) -> None:
        """The target waits for a late message."""
        channel = self._channels[source, target, wave]
        said = self._put(target, source, now, WORD_BYTES)
        channel.posted.append(said)
        self._start(source, target, channel)

    def arrival(self, source: int, target: int, wave: str) -> Time | None:
        """When the next message arrives; None while that cannot be known."""
        channel = self._channels[source, target, wave]
        return channel.arrivals[channel.received] if channel.received < len(channel.arrivals) else None

    def receive(self, source: int, target: int, wave: str) -> None:
        """The message was taken."""
        self._channels[source, target, wave].received += 1

    def gone(self, source: int, target: int, wave: str) -> Time | None:
        """When the oldest message not yet flushed has left the worker; None while that cannot be known."""
        channel = self._channels[source, target, wave]
        return channel.left[channel.flushed] if channel.flushed < len(channel.left) else None

    def flush(self, source: int, target: int, wave: str) -> None:
        """The message was waited for."""
        self._channels[source, target, wave].flushed += 1

    def tell(self, source: int, now: Time) -> None:
        """A worker tells all others."""
        self._told[source].append(now)

    def told(self, target: int, step: int) -> Time | None:
        """When a worker has been told by the others that a wave comes through, 0 for all; None while not known yet.

        They tell as often as it does itself; this is about the last time.
        """
        number = len(self._told[target]) - 1
        if step:
            return self._told_on_the_way(target, step, number)
        if self._workers == 1:
            return self._told[target][number]
        if number not in self._latest:
            if any(len(own) <= number for own in self._told):
                return None
            told = np.stack([np.asarray(own[number], dtype=float) for own in self._told])
            ordered = np.sort(told, axis=0)
            self._latest[number] = ordered[-1], ordered[-2], np.argmax(told, axis=0)
        last, before, who = self._latest[number]
        latest = np.where(who == target, before, last)
        return latest + self._telling

    @property
    def _telling(self) -> Time:
        return self._links.latency + STATUS_BYTES * self._links.byte_seconds

    def _told_on_the_way(self, target: int, step: int, number: int) -> Time | None:
        before = range(target) if step > 0 else range(self._workers - 1, target, -1)
        latest = self._latest_on_the_way[number, step]
        for worker in before[len(latest) :]:
            if len(self._told[worker]) <= number:
                return None
            own = np.asarray(self._told[worker][number], dtype=float)
            latest.append(np.maximum(latest[-1], own) if latest else own)
        return latest[len(before) - 1] + self._telling if before else np.zeros_like(self._links.latency, dtype=float)

    def _start(self, source: int, target: int, channel: _Channel) -> None:
        """Put on the link what is ready and waited for."""
        while len(channel.left) < min(len(channel.sent), len(channel.posted)):
            number = len(channel.left)
            ready, size = channel.sent[number]
            left = np.maximum(ready, channel.posted[number])
            channel.left.append(left)
            if self._in_order and left > ready:
                self._departures += 1
                heapq.heappush(self._leaving, (float(left), self._departures, (source, target, channel, size)))
            else:
                channel.arrivals.append(self._put(source, target, left, size))

    def next_departure(self) -> float:
        """When the next message that is not on a link yet leaves; infinite if there is none."""
        return self._leaving[0][0] if self._leaving else math.inf

    def release(self, now: float) -> list[int]:
        """Put on their links the messages that have left by now; returns their targets."""
        targets = []
        while self._leaving and self._leaving[0][0] <= now:
            left, _, (source, target, channel, size) = heapq.heappop(self._leaving)
            channel.arrivals.append(self._put(source, target, left, size))
            targets.append(target)
        return targets

    def _put(self, source: int, target: int, now: Time, size: int) -> Time:
        """Put bytes on a link; returns when the last of them arrives."""
        self._free[source, target] = np.maximum(now, self._free[source, target]) + size * self._links.byte_seconds
        return self._free[source, target] + self._links.latency
