"""All stages in one process: the waves go stage after stage, and what would cross between workers is counted."""

from collections.abc import Iterable, Sequence

from torch import nn

from surmin.losses import ConvexLoss
from surmin.pipeline.checks.modules import check_modules
from surmin.pipeline.links import NoLinks
from surmin.pipeline.placement import spread
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.replicas import ONE_REPLICA
from surmin.stages.stage import modules_of, stages_of


class InProcessPipeline(WorkerPipeline):
    """Stages one after the other on one device.

    Args:
        stages: one module per stage; running them in order is running the network.
        loss: the convex loss of the last stage's output.
        microbatches: equal parts that a batch is cut into.
        workers: for how many workers messages are counted, which share the stages evenly; one per stage if not given.

    Raises:
        ValueError: when a module cannot be trained this way, saying which and why; or for more workers than stages.
    """

    def __init__(
        self, stages: Sequence[nn.Module], loss: ConvexLoss, *, microbatches: int = 1, workers: int | None = None
    ) -> None:
        check_modules(stages)
        shares = spread(len(stages), workers or len(stages))
        crossings = {share.start for share in shares[1:]}
        super().__init__(stages_of(stages), loss, microbatches, NoLinks(len(shares)), crossings, ONE_REPLICA, Traffic())


def pipeline_of(
    stages: nn.Module | Iterable[nn.Module] | WorkerPipeline, loss: ConvexLoss | None, microbatches: int
) -> WorkerPipeline:
    """The pipeline that is given, or one in this process for a list of stages.

    Raises:
        ValueError: when there is no loss, or a pipeline is given that has one; and as for `InProcessPipeline`.
        TypeError: for what is no module or no loss.
    """
    if isinstance(stages, WorkerPipeline):
        if loss is not None or microbatches != 1:
            raise ValueError("the pipeline has its loss and micro-batches already: leave loss and microbatches out")
        return stages
    modules = modules_of(stages)
    if loss is None:
        raise ValueError("a loss is needed with a list of stages, for instance surmin.CrossEntropy()")
    return InProcessPipeline(modules, loss, microbatches=microbatches)
