"""The workers of one process: pipelines and methods on them, and rounds recorded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from surmin.losses import ConvexLoss
from surmin.methods.base import Method
from surmin.pipeline.checks.modules import check_modules
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.replicas import ONE_REPLICA
from surmin.report import StepReport
from surmin.simulation.operations import Hear, Program, Tell
from surmin.simulation.recording import RecordedLinks, Recorder, worker_clock
from surmin.simulation.threads import ThreadExchange, run_together
from surmin.stages.block import cut_blocks
from surmin.stages.stage import stages_of

WARM_UP = 2
"""Rounds that are undone before recording: the first ones count operations and grow memory."""

Build = Callable[[WorkerPipeline], Method]


@dataclass(frozen=True)
class Recorded:
    """One round.

    Attributes:
        programs: by worker.
        work: by worker, in operations.
        start_loss: at the start of the round, NaN if the method does not know it.
        end_loss: at its end, NaN if the method does not know it.
        forward_waves: so far.
        messages: so far, of all workers.
        bytes: so far, of all workers.
    """

    programs: list[Program]
    work: tuple[int, ...]
    start_loss: float
    end_loss: float
    forward_waves: int
    messages: int
    bytes: int

    def without_comparisons(self) -> "Recorded":
        """Without what workers tell each other about their batches, and wait for."""
        kept: list[Program] = [[one for one in own if not isinstance(one, Tell | Hear)] for own in self.programs]
        return replace(self, programs=kept)


class RecordedTeam:
    """Workers in one process, each with one stage of a network.

    Args:
        stages: one module per worker.
        loss: the convex loss.
        microbatches: equal parts that a batch is cut into.
    """

    def __init__(self, stages: Sequence[nn.Module], loss: ConvexLoss, microbatches: int) -> None:
        check_modules(stages)
        self.modules = list(stages)
        own = stages_of(stages)
        blocks = {
            kind: [sum(block.size > 0 for block in cut_blocks([stage], kind, 0)[0]) for stage in own]
            for kind in ("layer", "stage")
        }
        parameter = next(parameter for module in stages for parameter in module.parameters())
        self._exchange = ThreadExchange(len(own))
        self._recorders = [Recorder(worker_clock(parameter.device)) for _ in own]
        self.pipelines = [
            WorkerPipeline(
                [stage], loss, microbatches, RecordedLinks(place, blocks, self._exchange, recorder), frozenset(),
                ONE_REPLICA, Traffic(),
            )
            for place, (stage, recorder) in enumerate(zip(own, self._recorders, strict=True))
        ]  # fmt: skip
        for pipeline, recorder in zip(self.pipelines, self._recorders, strict=True):
            pipeline.tracer = recorder

    def warm_up(self, build: Build, inputs: Tensor, targets: Tensor) -> None:
        """Run some rounds, undone afterwards."""
        initial = [{name: value.clone() for name, value in module.state_dict().items()} for module in self.modules]
        methods = self.build(build)
        for _ in range(WARM_UP):
            self.step(methods, inputs, targets)
        for module, state in zip(self.modules, initial, strict=True):
            module.load_state_dict(state)
        for pipeline in self.pipelines:
            pipeline.traffic.messages = pipeline.traffic.bytes = pipeline.traffic.forward_waves = 0

    def build(self, build: Build) -> list[Method]:
        """The method, built on every worker."""
        return run_together(self._exchange, [partial(build, pipeline) for pipeline in self.pipelines])

    def step(self, methods: Sequence[Method], inputs: Tensor, targets: Tensor) -> Recorded:
        """One round of all workers."""

        def run(method: Method, recorder: Recorder) -> StepReport:
            recorder.start()
            report = method.step(inputs, targets)
            recorder.note()
            return report

        before = self._operations()
        pairs = zip(methods, self._recorders, strict=True)
        report = run_together(self._exchange, [partial(run, *pair) for pair in pairs])[-1]
        sent = [pipeline.traffic for pipeline in self.pipelines]
        return Recorded(
            [recorder.program for recorder in self._recorders],
            tuple(now - then for now, then in zip(self._operations(), before, strict=True)),
            report.loss,
            report.new_loss,
            sent[0].forward_waves,
            sum(own.messages for own in sent),
            sum(own.bytes for own in sent),
        )

    @torch.no_grad()
    def mean_loss(self, inputs: Tensor, targets: Tensor) -> float:
        """The mean loss over these samples at the current parameters; nothing is recorded."""
        state = inputs
        for pipeline in self.pipelines:
            state = pipeline.stages[0].output(state)
        return float(self.pipelines[-1].loss.sample_losses(state, targets).double().mean())

    def _operations(self) -> list[int]:
        return [pipeline.work.operations for pipeline in self.pipelines]
