"""Training by a method to a loss, with all its workers in one process, for the rounds that are then simulated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from surmin.errors import NonFiniteError
from surmin.losses import ConvexLoss
from surmin.methods.registry import build_method
from surmin.simulation.seconds import RoundKind, Rounds
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
    batch: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    tell: Callable[[int, float], None] = lambda rounds, loss: None,
) -> Trained | None:  # fmt: skip
    """Train until the loss is at the target or below.

    On mini-batches the loss over all samples is computed after every round, unrecorded. What workers tell each other
    about every new batch is then left out: another engine might not do that.

    Args:
        stages: one per worker.
        loss: the convex loss.
        inputs: the whole batch.
        targets: of the batch.
        method: its name.
        options: of the method.
        microbatches: equal parts of the batch; samples left over are dropped.
        target_loss: where to stop.
        most_rounds: after which it is given up.
        seed: of the method.
        batch: the mini-batch of a round, counted from 0; the whole batch in every round if not given.
        tell: called with every round, and the loss known then.

    Returns:
        The run; None if the target was not reached, or the loss is no longer finite.

    Raises:
        ValueError: if network, batch or an option cannot work.
    """
    samples = len(inputs) // microbatches * microbatches
    if not samples:
        raise ValueError(f"{len(inputs)} samples cannot be cut into {microbatches} micro-batches")
    inputs, targets = inputs[:samples], targets[:samples]
    team = RecordedTeam(stages, loss, microbatches)

    def build(pipeline: Any) -> Any:
        return build_method(method, pipeline, seed=seed, **options)

    def step(number: int) -> Recorded:
        if batch is None:
            return team.step(methods, inputs, targets)
        found = team.step(methods, *batch(number)).without_comparisons()
        return replace(found, start_loss=math.nan, end_loss=team.mean_loss(inputs, targets))

    rounds = Rounds()
    last: Recorded | None = None
    try:
        team.warm_up(build, *(batch(0) if batch else (inputs, targets)))
        methods = team.build(build)
        while rounds.count <= most_rounds:
            found = step(rounds.count)
            if found.start_loss <= target_loss:  # known only now: the previous round had reached it
                return _result(rounds, last)
            rounds.add(found)
            last = found
            if found.end_loss <= target_loss:
                return _result(rounds, last) if rounds.count <= most_rounds else None
            known = found.end_loss if math.isfinite(found.end_loss) else found.start_loss
            if not math.isfinite(known):
                return None
            tell(rounds.count, known)
    except NonFiniteError:
        return None
    return None


def _result(rounds: Rounds, last: Recorded | None) -> Trained:
    if last is None:
        return Trained([], 0, 0, 0, 0)
    return Trained(rounds.kinds(), rounds.count, last.forward_waves, last.messages, last.bytes)
