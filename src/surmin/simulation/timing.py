"""When workers end their programs, with a core for each."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import numpy as np

from surmin.simulation.operations import (
    Flush,
    Hear,
    Operation,
    Post,
    Program,
    Receive,
    Send,
    Tell,
    Work,
)
from surmin.simulation.wires import LinkKind, Time, Wires


def replay(programs: Sequence[Program], links: LinkKind) -> list[Time]:
    """When each worker ends, all starting at 0, with a core for every worker.

    Every operation is visited once: its time is a maximum of sums of times already known. With a `LinkKind` of arrays,
    all kinds of links are handled at once. Operations are not visited in order of time: where late messages and others'
    words share a link, which goes first can be mistaken, and `share_cores` must be used.

    Args:
        programs: by worker, expanded.
        links: between them.

    Raises:
        RuntimeError: if workers wait for each other for ever.
    """
    wires = Wires(links, len(programs))
    now: list[Time] = [np.zeros_like(links.latency, dtype=float) for _ in programs]
    position = [0] * len(programs)
    waiting: set[int] = set()
    ready = deque(range(len(programs)))
    while ready:
        place = ready.popleft()
        waiting.discard(place)
        while position[place] < len(programs[place]):
            operation = programs[place][position[place]]
            until = until_when(operation, place, now[place], wires)
            if until is None:
                waiting.add(place)
                break
            now[place] = np.maximum(now[place], until)
            position[place] += 1
            for woken in carry_out(operation, place, now[place], wires, len(programs)):
                if woken in waiting:
                    waiting.discard(woken)
                    ready.append(woken)
    if waiting:
        raise RuntimeError(f"workers {sorted(waiting)} wait for each other for ever")
    return now


def share_a_link_late(programs: Sequence[Program]) -> bool:
    """Whether a worker says that it waits while its own late message to the same worker may not have left yet."""
    for program in programs:
        underway: Counter[int] = Counter()
        for operation in program:
            if isinstance(operation, Send) and operation.late:
                underway[operation.step] += 1
            elif isinstance(operation, Flush):
                underway[operation.step] -= 1
            elif isinstance(operation, Post) and underway[operation.step]:
                return True
    return False


def until_when(operation: Operation, place: int, now: Time, wires: Wires) -> Time | None:
    """When an operation that a worker has reached is over; None while that cannot be known."""
    if isinstance(operation, Work):
        return now + operation.seconds
    if isinstance(operation, Receive):
        return wires.arrival(place + operation.step, place, operation.wave)
    if isinstance(operation, Flush):
        return wires.gone(place, place + operation.step, operation.wave)
    if isinstance(operation, Hear):
        return wires.told(place, operation.step)
    return now


def carry_out(operation: Operation, place: int, now: Time, wires: Wires, workers: int) -> Iterable[int]:
    """Apply an operation's effects on others; returns the workers that may have waited for it."""
    if isinstance(operation, Send):
        other = place + operation.step
        wires.send(place, other, operation.wave, operation.bytes, now, late=operation.late)
        return (other,)
    if isinstance(operation, Post):
        other = place + operation.step
        wires.post(other, place, operation.wave, now)
        return (other,)
    if isinstance(operation, Receive):
        wires.receive(place + operation.step, place, operation.wave)
    elif isinstance(operation, Flush):
        wires.flush(place, place + operation.step, operation.wave)
    elif isinstance(operation, Tell):
        wires.tell(place, now)
        return range(workers)
    return ()
