"""One worker of a race: it trains by one method after another over the links it is in, and tells when rounds ended.

Tasks come as JSON in the first argument; worker by worker the answers are printed as JSON, one a line. All processes of
a machine have one monotonic clock.
"""

import json
import sys
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.harness import Settings
from benchmarks.links.pages import keep_memory
from benchmarks.problems import Problem, batches, mnist_mlp
from surmin.experiments.runs.processor import set_up_processor
from surmin.launch.group import joined
from surmin.launch.worker import this_worker
from surmin.losses import CrossEntropy
from surmin.methods.registry import build_method
from surmin.pipeline.distributed import Pipeline
from surmin.stages.partition import partition

TIMEOUT = 120.0
WARM_UP = 2
"""Rounds before the clock starts, undone afterwards: connections are opened and widened, shapes told."""


@dataclass(frozen=True)
class Task:
    """What to train with, and for how long.

    Attributes:
        method: its name.
        options: of the method.
        microbatches: equal parts of the batch.
        schedule: of the pipeline.
        rounds: the most.
        until: a training loss at which to stop, where the method knows it on every worker; 0 for none.
        seed: of the network, and of the order of mini-batches.
        batch: samples in a mini-batch; 0 for all samples in every round.
    """

    method: str
    options: dict[str, Any]
    microbatches: int
    schedule: str
    rounds: int
    until: float = 0.0
    seed: int = 0
    batch: int = 0

    @property
    def need(self) -> str:
        """Names what it is that needs a number of rounds."""
        return f"{self.method} {self.batch}" if self.batch else self.method

    @property
    def is_whole(self) -> bool:
        """Run to the end; of others some rounds are timed, and the first does not count."""
        return self.method == "sm"

    def data(self, problem: Problem) -> list[tuple[Tensor, Tensor]]:
        """Inputs and targets of every round."""
        if self.batch:
            return list(islice(batches(problem.inputs, problem.targets, self.batch, self.seed), self.rounds))
        return [(problem.inputs, problem.targets)] * self.rounds


def main() -> None:
    """Work through the tasks, together with the other workers."""
    set_up_processor(1)
    keep_memory()
    worker = this_worker()
    assert worker is not None
    problem = mnist_mlp(Settings(quick=False, device=torch.device("cpu")), layers=8)
    with joined(worker, TIMEOUT):
        for words in json.loads(sys.argv[1]):
            print(json.dumps(train(Task(**words), problem)), flush=True)


def train(task: Task, problem: Problem) -> dict[str, Any]:
    """When rounds ended, in seconds since the start common to all workers, with losses and what this worker sent.

    Also the processor time of this worker until then, in seconds.
    """
    rank, workers = dist.get_rank(), dist.get_world_size()
    stage = partition(problem.network(task.seed), workers)[rank]
    pipeline = Pipeline(stage, CrossEntropy(), microbatches=task.microbatches, schedule=task.schedule, timeout=TIMEOUT)  # type: ignore[arg-type]
    data = task.data(problem)
    _warm_up(task, pipeline, stage, data[0])
    method = build_method(task.method, pipeline, seed=task.seed, **task.options)
    before, start = pipeline.traffic.copy(), _start_together(pipeline)
    began = time.process_time()
    ends: list[float] = []
    processor: list[float] = []
    losses: list[float] = []
    sent: list[int] = []
    waves: list[int] = []
    for batch in data:
        report = method.step(*batch)
        ends.append(time.monotonic() - start)
        processor.append(time.process_time() - began)
        losses.append(report.new_loss)
        sent.append(pipeline.traffic.bytes - before.bytes)
        waves.append(pipeline.traffic.forward_waves - before.forward_waves)
        if losses[-1] <= task.until:
            break
    pipeline.close()
    return {"ends": ends, "losses": losses, "bytes": sent, "waves": waves, "processor": processor}


def _warm_up(task: Task, pipeline: Pipeline, stage: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    initial = {name: value.clone() for name, value in stage.state_dict().items()}
    method = build_method(task.method, pipeline, seed=task.seed, **task.options)
    for _ in range(WARM_UP):
        method.step(*batch)
    stage.load_state_dict(initial)


def _start_together(pipeline: Pipeline) -> float:
    """A moment that all workers have reached, on the clock they share."""
    pipeline.total(torch.zeros(1))
    mine = time.monotonic() + 0.5 if pipeline.is_first else 0.0
    (start,) = pipeline.total(torch.tensor([mine], dtype=torch.float64))
    time.sleep(max(0.0, start - time.monotonic()))
    return start


if __name__ == "__main__":
    main()
