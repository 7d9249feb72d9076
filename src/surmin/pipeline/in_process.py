"""All stages in one process: waves go stage by stage, counting what would cross between workers."""

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
        stages: one module per stage; running them in order runs the network.
        loss: the convex loss of the last stage's output.
        microbatches: equal parts that a batch is cut into.
        workers: number of workers to count messages for, which share the stages evenly; by default one per stage.

    Raises:
        ValueError: if a module cannot be trained this way (the message says which and why), or for more workers than
            stages.
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
    """The given pipeline, or one in this process for a list of stages.

    Raises:
        ValueError: if there is no loss, or a pipeline is given together with one; and as for `InProcessPipeline`.
        TypeError: if the stages are not modules or the loss is not a loss.
    """
    if isinstance(stages, WorkerPipeline):
        if loss is not None or microbatches != 1:
            raise ValueError("the pipeline has its loss and micro-batches already: leave loss and microbatches out")
        return stages
    modules = modules_of(stages)
    if loss is None:
        raise ValueError("a loss is needed with a list of stages, for instance surmin.CrossEntropy()")
    return InProcessPipeline(modules, loss, microbatches=microbatches)
