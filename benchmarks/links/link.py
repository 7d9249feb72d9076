"""One direction between two workers: packets in order, paced to a rate, then delayed by a latency."""

import math
from collections import deque


class Link:
    """A first-in-first-out link; a packet is due at max(now, when the link is free) + bits / rate + latency.

    Args:
        latency: seconds.
        rate: bits per second.
        capacity: bytes that fit into the link and the queue before it; what comes on top is dropped.
    """

    def __init__(self, latency: float, rate: float, capacity: float = math.inf) -> None:
        self.latency = latency
        self.rate = rate
        self.capacity = capacity
        self.dropped = 0
        self._inside = 0
        self._free_at = -math.inf
        self._packets: deque[tuple[float, bytes]] = deque()

    @property
    def due(self) -> float:
        """When the first packet is to leave; infinite if there is none."""
        return self._packets[0][0] if self._packets else math.inf

    def enter(self, packet: bytes, now: float) -> None:
        """Take a packet in, or drop it if the link is full."""
        if self._inside + len(packet) > self.capacity:
            self.dropped += 1
            return
        self._inside += len(packet)
        self._free_at = max(now, self._free_at) + 8 * len(packet) / self.rate
        self._packets.append((self._free_at + self.latency, packet))

    def leave(self) -> bytes:
        """Let the first packet out."""
        _, packet = self._packets.popleft()
        self._inside -= len(packet)
        return packet
