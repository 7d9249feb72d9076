"""Training by a method to a loss with all its workers in one process, for the rounds that are then simulated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from surmin.errors import NonFiniteError
from surmin.losses import ConvexLoss
from surmin.methods.registry import build_method
from surmin.simulation.seconds import RoundKind, group
from surmin.simulation.team import Recorded, RecordedTeam


@dataclass(frozen=True)
class Trained:
    """A run to a loss.

    Attributes:
        kinds: its rounds.
        rounds: how many.
        forward_waves: in all of them.
        messages: of all workers.
        bytes: of all workers.
    """

    kinds: list[RoundKind]
    rounds: int
    forward_waves: int
    messages: int
    bytes: int


def train(
    stages: Sequence[nn.Module], loss: ConvexLoss, inputs: Tensor, targets: Tensor, method: str,
    options: dict[str, Any], *, microbatches: int, target_loss: float, most_rounds: int, seed: int = 0,
    tell: Callable[[int, float], None] = lambda rounds, loss: None,
) -> Trained | None:  # fmt: skip
    """Train until the loss is at the target or below.

    Args:
        stages: one a worker.
        loss: the convex loss.
        inputs: the whole batch.
        targets: of it.
        method: its name.
        options: of it.
        microbatches: equal parts of the batch; samples that fill none are left out.
        target_loss: where to stop.
        most_rounds: after which it is given up.
        seed: of the method.
        tell: is told of every round, and the loss known then.

    Returns:
        The run; None where the target was not reached, or the loss is no longer finite.

    Raises:
        ValueError: for a network, batch or option that cannot work.
    """
    samples = len(inputs) // microbatches * microbatches
    if not samples:
        raise ValueError(f"{len(inputs)} samples cannot be cut into {microbatches} micro-batches")
    inputs, targets = inputs[:samples], targets[:samples]
    team = RecordedTeam(stages, loss, microbatches)

    def build(pipeline: Any) -> Any:
        return build_method(method, pipeline, options, seed)

    recorded: list[Recorded] = []
    try:
        team.warm_up(build, inputs, targets)
        methods = team.build(build)
        while len(recorded) <= most_rounds:
            recorded.append(team.step(methods, inputs, targets))
            last = recorded[-1]
            if last.start_loss <= target_loss:  # known only now: the round before had reached it
                return _result(recorded[:-1])
            if last.end_loss <= target_loss:
                return _result(recorded) if len(recorded) <= most_rounds else None
            known = last.end_loss if math.isfinite(last.end_loss) else last.start_loss
            if not math.isfinite(known):
                return None
            tell(len(recorded), known)
    except NonFiniteError:
        return None
    return None


def _result(recorded: Sequence[Recorded]) -> Trained | None:
    if not recorded:
        return Trained([], 0, 0, 0, 0)
    last = recorded[-1]
    return Trained(group(recorded), len(recorded), last.forward_waves, last.messages, last.bytes)
