"""Options of `surmin timeline`. Importing this imports no torch, so that options can be refused at once."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import Fixed, Suppress

from surmin.experiments.configs.ranges import check_least
from surmin.experiments.configs.run import ExperimentConfig
from surmin.methods.registry import check_takes
from surmin.pipeline.schedule_names import ScheduleName


@dataclass(frozen=True, kw_only=True)
class TimelineConfig(ExperimentConfig):
    """A few steps of plain gradient descent, then a few rounds of sm, on the same network and workers.

    Attributes:
        workers: processes that the stages are spread over.
        microbatches: equal parts of the training samples; samples left over are dropped.
        schedule: for the micro-batches of the gradient steps and of sm.
        gradient_steps: traced steps of gradient descent.
        rounds: traced rounds of sm.
    """

    command: ClassVar[str] = "timeline"

    width: int = 256
    workers: int = 4
    microbatches: int = 4
    schedule: ScheduleName = "gpipe"
    gradient_steps: int = 5
    rounds: int = 2
    evaluate_every: Annotated[int, Suppress, Fixed] = 1
    target_loss: Annotated[float | None, Suppress, Fixed] = None

    def check(self) -> None:
        """As above; there must be something to trace, and sm must take the options given."""
        super().check()
        check_takes("sm", self.given_options())
        check_least(self, gradient_steps=1, rounds=1)
        if self.batch_size:
            raise ValueError("surmin timeline traces whole batches: leave batch_size out, and choose train_samples")
        if self.replicas > 1:
            raise ValueError("surmin timeline shows one pipe: leave replicas at 1")
        if self.target_loss is not None:
            raise ValueError("target_loss has no meaning for a timeline")
