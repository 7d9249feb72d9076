"""One way to train, in one process or on workers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from surmin import CrossEntropy, StepReport, SurrogateMinimizer, partition
from surmin.methods.base import Method
from surmin.methods.registry import build_method
from surmin.models import cnn, gpt, mlp
from surmin.pipeline.distributed import Pipeline
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.placement import spread
from surmin.pipeline.schedule_names import ScheduleName
from surmin.pipeline.worker_pipeline import WorkerPipeline
from tests.cases import Case
from tests.device import here

SAMPLES = 24
ROUNDS = 5
TIMEOUT = 20.0


def _gpt() -> nn.Sequential:
    """One with more layers after its block, so that it can be cut into eight stages and still is small."""
    *body, head = gpt(4, 3, 2, 4, heads=2)
    hidden = [module for _ in range(3) for module in (nn.Linear(4, 4), nn.GELU())]
    return nn.Sequential(*body, *hidden, head)


DEEP = {
    case.name: case
    for case in [
        Case("mlp", lambda: mlp((5,), 3, 8, 6, "tanh"), (5,), (), CrossEntropy(), classes=3),
        Case("narrow", lambda: mlp((3,), 2, 8, 2, "tanh"), (3,), (), CrossEntropy(), classes=2),
        Case("wide", lambda: mlp((8,), 3, 8, 384, "tanh"), (8,), (), CrossEntropy(), classes=3),
        Case("cnn", lambda: cnn((1, 4, 4), 3, 8, 2, "tanh"), (1, 4, 4), (), CrossEntropy(), classes=3),
        Case("gpt", _gpt, (3,), (3,), CrossEntropy(), tokens=4, classes=4),
    ]
}
"""Networks that can be cut into eight stages."""


@dataclass(frozen=True)
class Setting:
    """A network of `DEEP`, how it is cut and spread, and a method with its options."""

    workers: int
    stages: int
    microbatches: int
    network: str = "mlp"
    schedule: ScheduleName = "posted"
    method: str = "sm"
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in self.options]
        where = f"{self.workers}x{self.stages}x{self.microbatches}"
        return "-".join([where, self.network, self.schedule, self.method, *options])

    @property
    def case(self) -> Case:
        return DEEP[self.network]

    @property
    def alone(self) -> "Setting":
        """The same mathematics in one process, at once; what workers round on the wire is rounded there too."""
        return replace(self, microbatches=1, schedule="posted")

    def modules(self) -> list[nn.Module]:
        return partition(self.case.network(), self.stages)


@dataclass(frozen=True)
class Outcome:
    """What training left: parameters by global name, every round's report, and the unit of work here."""

    parameters: dict[str, Any]
    reports: list[StepReport]
    unit: int


def train(pipeline: WorkerPipeline, setting: Setting) -> Outcome:
    method = make_method(pipeline, setting)
    batch = setting.case.batch(SAMPLES)
    reports = run_rounds(method, setting, batch)
    return Outcome(values(pipeline), reports, pipeline.gradient_operations(batch[0].shape))


def run_rounds(method: Method, setting: Setting, batch: tuple[Tensor, Tensor]) -> list[StepReport]:
    """Steps on one batch. Where torch's schedule is to run in each of them the batch comes in other tensors.

    With the same ones an accepted wave is the next step's first wave, which leaves the schedule nothing to do.
    """
    reports = []
    for _ in range(ROUNDS):
        if setting.schedule != "posted":
            batch = batch[0].clone(), batch[1].clone()
        reports.append(method.step(*batch))
    return reports


def make_method(pipeline: WorkerPipeline, setting: Setting) -> Method:
    if setting.method == "sm":
        return SurrogateMinimizer(pipeline, **dict(setting.options))
    return build_method(setting.method, pipeline, **dict(setting.options))


@cache
def in_one_process(setting: Setting) -> Outcome:
    """All stages here; messages are counted as for the setting's workers."""
    case, counts = setting.case, {"microbatches": setting.microbatches, "workers": setting.workers}
    return train(InProcessPipeline(setting.modules(), case.loss, **counts), setting)


def on_this_worker(setting: Setting) -> Outcome:
    """The task of one of the setting's workers."""
    with running(setting) as pipeline:
        return train(pipeline, setting)


@contextmanager
def running(setting: Setting, modules: Sequence[nn.Module] | None = None) -> Iterator[Pipeline]:
    """This worker's pipeline, with its share of the modules; all has been sent when it is left."""
    pipeline = make_pipeline(setting, modules or setting.modules())
    yield pipeline
    pipeline.flush()


def make_pipeline(setting: Setting, modules: Sequence[nn.Module]) -> Pipeline:
    """This worker's pipeline, with its share of the modules; a replica where there are more workers than it needs."""
    share = spread(len(modules), setting.workers)[dist.get_rank() % setting.workers]
    replicas = dist.get_world_size() // setting.workers
    mesh = [range(first, first + setting.workers) for first in range(0, replicas * setting.workers, setting.workers)]
    return Pipeline(
        [modules[index] for index in share], setting.case.loss,
        microbatches=setting.microbatches, schedule=setting.schedule, timeout=TIMEOUT, mesh=mesh,
        device=here(),
    )  # fmt: skip


def values(pipeline: WorkerPipeline) -> dict[str, Any]:
    """The trainable parameters as arrays, which go to another process as they are."""
    return {name: _array(parameter) for name, parameter in pipeline.parameters.items()}


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().clone().numpy()
