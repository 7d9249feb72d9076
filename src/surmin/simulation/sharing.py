"""When workers that share the cores of one machine end their programs; everything happens in order of time."""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from surmin.simulation.operations import Operation, Program, Send, Work
from surmin.simulation.timing import carry_out, until_when
from surmin.simulation.wires import LinkKind, Wires

NOTHING = 1e-12
"""Seconds that rounding can leave of work that is done."""


@dataclass(frozen=True)
class Carrier:
    """What carries messages on the workers' machine, ahead of their computing.

    Attributes:
        packet: seconds for every packet.
        byte: seconds for every byte of a message, to read it for its receiver.
    """

    packet: float = 0.0
    byte: float = 0.0


NO_CARRIER = Carrier()


def share_cores(
    programs: Sequence[Program], links: LinkKind, cores: float, carrier: Carrier = NO_CARRIER
) -> list[float]:
    """When each worker ends, all starting at 0, if those that compute at a time share so many cores evenly.

    Args:
        programs: by worker, expanded.
        links: between them, of one kind.
        cores: of the machine that runs all workers.
        carrier: of messages on the same machine.

    Raises:
        RuntimeError: if workers wait for each other for ever.
    """
    machine = _Machine(programs, links, carrier)
    machine.go_on(0.0, range(len(programs)))
    now = 0.0
    while not machine.is_done:
        carrying = not _is_over(machine.to_carry, now)
        speed = max(NOTHING, min(1.0, (cores - carrying) / max(1, len(machine.left))))
        event = min(machine.next_event(), now + min(machine.left.values(), default=math.inf) / speed)
        if math.isinf(event):
            raise RuntimeError("the workers wait for each other for ever")
        if carrying:
            event = min(event, now + machine.to_carry)
            machine.to_carry -= event - now
        machine.work((event - now) * speed)
        now = event
        machine.go_on(now, machine.woken(now))
    return machine.ends


class _Machine:
    """Where every worker is in its program.

    `left` has the seconds of work, alone on a core, that workers have yet to do of their current operation, and
    `to_carry` those of carrying and reading messages.
    """

    def __init__(self, programs: Sequence[Program], links: LinkKind, carrier: Carrier) -> None:
        self._programs = programs
        self._links = links
        self._wires = Wires(links, len(programs), in_order=True)
        self._position = [0] * len(programs)
        self._carrier = carrier
        self._untimed: set[int] = set()  # wait for something whose time is not known yet
        self._timed: list[tuple[float, int]] = []  # wait until then
        self._running = len(programs)
        self.left: dict[int, float] = {}
        self.to_carry = 0.0
        self.ends = [0.0] * len(programs)

    @property
    def is_done(self) -> bool:
        return not self._running

    def next_event(self) -> float:
        """When a message leaves, or a worker gets what it waits for."""
        return min(self._wires.next_departure(), self._timed[0][0] if self._timed else math.inf)

    def work(self, seconds: float) -> None:
        """Let every computing worker do this much work."""
        for place in self.left:
            self.left[place] -= seconds

    def woken(self, now: float) -> list[int]:
        """Those that no longer need to wait or compute."""
        places = [place for place in self._wires.release(now) if place in self._untimed]
        while self._timed and self._timed[0][0] <= now:
            places.append(heapq.heappop(self._timed)[1])
        done = [place for place, seconds in self.left.items() if _is_over(seconds, now)]
        for place in done:
            del self.left[place]
            self._position[place] += 1
        return places + done

    def go_on(self, now: float, places: Iterable[int]) -> None:
        """Let workers do what takes no time, until each computes, waits or has ended."""
        ready = deque(dict.fromkeys(places))
        while ready:
            place = ready.popleft()
            self._untimed.discard(place)
            while (operation := self._next(place)) is not None and self._has_done(place, operation, now):
                self._position[place] += 1
                for other in carry_out(operation, place, now, self._wires, len(self._programs)):
                    if other in self._untimed:
                        self._untimed.discard(other)
                        ready.append(other)
            if operation is None:
                self.ends[place] = now
                self._running -= 1

    def _next(self, place: int) -> Operation | None:
        program, position = self._programs[place], self._position[place]
        return program[position] if position < len(program) else None

    def _has_done(self, place: int, operation: Operation, now: float) -> bool:
        if isinstance(operation, Work):
            self.left[place] = operation.seconds
            return False
        until = until_when(operation, place, now, self._wires)
        if until is None:
            self._untimed.add(place)
            return False
        if until > now:
            heapq.heappush(self._timed, (float(until), place))
            return False
        if isinstance(operation, Send):
            self.to_carry += self._carrier.packet * self._links.packets(operation.bytes)
            self.to_carry += self._carrier.byte * operation.bytes
        return True


def _is_over(left: float, now: float) -> bool:
    """Whether the work left is only rounding: at late times, the clock itself is coarser than `NOTHING`."""
    return left <= NOTHING or now + left == now
