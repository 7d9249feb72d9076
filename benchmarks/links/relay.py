"""The process between the namespaces: every packet that a worker sends goes through a link to the worker it is for.

It talks with `laboratory.py` in lines of JSON: first what it has set up, then an answer to every request. When its
input ends, so does it, and with it everything that was started in its namespaces.
"""

import contextlib
import gc
import itertools
import json
import math
import os
import select
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

from benchmarks.links.link import Link
from benchmarks.links.namespace import Namespace, address, open_namespace, processes_inside

CAPACITY = 64 << 20
PACKET_SECONDS = 1e-3
SMALLEST_MTU, LARGEST_MTU, LARGEST_PACKET = 1500, 60_000, 65_536


@dataclass
class Log:
    """What the relay has carried, and how late packets left; seconds, bytes with their TCP and IP headers.

    A packet's way begins when the relay reads it: until then it may have lain in its device while the relay was busy
    with others, for `longest_pass` at most, or was not running. `processor` is the processor time that it took.
    """

    packets: int = 0
    bytes: int = 0
    dropped: int = 0
    most_late: float = 0.0
    longest_pass: float = 0.0
    total_late: float = 0.0
    processor: float = 0.0

    def add(self, size: int, late: float) -> None:
        """A packet left."""
        self.packets += 1
        self.bytes += size
        self.total_late += late
        self.most_late = max(self.most_late, late)

    @property
    def mean_late(self) -> float:
        """Mean over packets."""
        return self.total_late / max(self.packets, 1)


class Route(NamedTuple):
    """A link, and the tun device at its end."""

    link: Link
    target: int


class Relay:
    """Namespaces and the links between every ordered pair of them."""

    def __init__(self, workers: int) -> None:
        self.namespaces: list[Namespace] = [open_namespace(rank) for rank in range(workers)]
        self._tuns = [namespace.tun for namespace in self.namespaces]
        self._routes: dict[tuple[int, bytes], Route] = {}
        for (_, source), (rank, target) in itertools.permutations(enumerate(self._tuns), 2):
            self._routes[source, socket.inet_aton(address(rank))] = Route(Link(0, 1e9, CAPACITY), target)
        self._log = Log()
        self._processor = time.process_time()

    def set_links(self, latency: float, rate: float) -> None:
        """Let all links have this latency and rate from the next packet on, and packets a fitting size."""
        for namespace in self.namespaces:
            namespace.set_mtu(packet_size(rate))
        for link, _ in self._routes.values():
            link.latency, link.rate = latency, rate

    def take_log(self) -> Log:
        """What happened since this was last asked."""
        log, self._log = self._log, Log()
        now = time.process_time()
        log.processor, self._processor = now - self._processor, now
        for link, _ in self._routes.values():
            log.dropped += link.dropped
            link.dropped = 0
        return log

    def carry_until(self, control: int) -> None:
        """Carry packets until there is something to read from `control`."""
        while True:
            due = min(link.due for link, _ in self._routes.values())
            wait = None if due == math.inf else max(0.0, due - time.monotonic())
            ready, _, _ = select.select([*self._tuns, control], [], [], wait)
            if control in ready:
                return
            begun = time.monotonic()
            for tun in ready:
                self._take_packet(tun)
            self._deliver()
            self._log.longest_pass = max(self._log.longest_pass, time.monotonic() - begun)

    def _take_packet(self, tun: int) -> None:
        packet = os.read(tun, LARGEST_PACKET)
        route = self._routes.get((tun, packet[16:20]))  # an IPv4 packet's destination
        if route:
            route.link.enter(packet, time.monotonic())

    def _deliver(self) -> None:
        for link, target in self._routes.values():
            while (late := time.monotonic() - link.due) >= 0:
                packet = link.leave()
                os.write(target, packet)
                self._log.add(len(packet), late)


def packet_size(rate: float) -> int:
    """Bytes that take a millisecond at this rate, within what networks use."""
    return int(min(max(rate * PACKET_SECONDS / 8, SMALLEST_MTU), LARGEST_MTU))


def main(workers: int) -> None:
    """Set up, say so, and serve until the input ends."""
    try:
        relay = Relay(workers)
    except OSError as refusal:
        _say({"refusal": str(refusal)})
        return
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    gc.disable()
    _say({"handles": [namespace.handle for namespace in relay.namespaces]})
    try:
        _serve(relay)
    finally:
        for process in processes_inside(relay.namespaces):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _serve(relay: Relay) -> None:
    while True:
        relay.carry_until(sys.stdin.fileno())
        request = sys.stdin.readline()
        if not request:
            return
        links = json.loads(request)
        if links:
            relay.set_links(**links)
        _say(asdict(relay.take_log()))


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
