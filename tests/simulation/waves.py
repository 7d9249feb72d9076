"""Programs of pipes whose parts all take set times."""

from collections.abc import Sequence

from surmin.simulation.operations import Hear, Program, Receive, Send, Work
from surmin.simulation.schedules import reorder


def gradient_step(
    forward: Sequence[float], backward: Sequence[float], microbatches: int, size: int, after: float = 0.0
) -> list[Program]:
    """Forward and gradient wave as the posted schedule records them, by worker."""
    last = len(forward) - 1
    programs: list[Program] = []
    for place, (up, down) in enumerate(zip(forward, backward, strict=True)):
        program: Program = []
        for letter, wave, seconds, step, ends in (
            ("F", "forward", up, 1, (0, last)),
            ("B", "gradient", down, -1, (last, 0)),
        ):
            for number in range(microbatches):
                received = [Receive(-step, wave, size)] if place != ends[0] else []
                sent = [Send(step, wave, size)] if place != ends[1] else []
                program += [*received, Work(seconds, letter, number), *sent]
        programs.append([*program, Work(after, "U")])
    return programs


def reorder_all(programs: list[Program], schedule: str) -> list[Program]:
    """Without the comparison of batches, which these programs do not have."""
    return [[item for item in own if not isinstance(item, Hear)] for own in reorder(programs, schedule)]
