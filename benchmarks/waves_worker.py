"""One worker of the `waves` benchmark: forward and gradient waves by torch's bare schedule and by ours, in turns."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, repeat
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from surmin.experiments.runs.processor import set_up_processor
from surmin.launch.group import joined
from surmin.launch.worker import this_worker
from surmin.losses import CrossEntropy
from surmin.models import mlp
from surmin.pipeline.distributed import Pipeline
from surmin.pipeline.schedule_names import ScheduleName
from surmin.stages.partition import partition

FEATURES, CLASSES, LAYERS = 512, 10, 8
BARE: dict[str, Any] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
WARM_UP = 3


def main() -> None:
    """Print the seconds of every step, by name."""
    width, samples, microbatches, turns = (int(word) for word in sys.argv[1:])
    set_up_processor(1)
    worker = this_worker()
    assert worker is not None
    with joined(worker, 60.0):
        steps = _steps(width, samples, microbatches)
        for step in list(steps.values()) * WARM_UP:
            step()
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(turns):
            for name, step in steps.items():
                dist.barrier()
                start = time.perf_counter()
                step()
                dist.barrier()
                seconds[name].append(time.perf_counter() - start)
        if worker.rank == 0:
            print(json.dumps(seconds))


def _steps(width: int, samples: int, microbatches: int) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    model = mlp((FEATURES,), CLASSES, LAYERS, width)
    inputs, targets = torch.randn(samples, FEATURES), torch.randint(CLASSES, (samples,))
    stages = partition(model, dist.get_world_size())
    rank, part = dist.get_rank(), samples // microbatches
    boundaries = [inputs[:1]]
    for stage in stages:
        boundaries.append(stage(boundaries[-1]).detach())
    steps: dict[str, Callable[[], object]] = {}
    for name, kind in BARE.items():
        entering, leaving = (boundaries[at].expand(part, -1).clone() for at in (rank, rank + 1))
        place = PipelineStage(
            stages[rank], rank, len(stages), torch.device("cpu"),
            input_args=(entering.requires_grad_(rank > 0),), output_args=(leaving.requires_grad_(),),
        )  # fmt: skip
        schedule = kind(place, microbatches, loss_fn=F.cross_entropy, scale_grads=False)
        steps[f"torch's {name}"] = partial(_bare, schedule, stages[rank], inputs, targets)
    schedules: tuple[ScheduleName, ...] = ("gpipe", "1f1b", "posted")
    for name in schedules:
        same, other = (inputs, targets), (inputs.clone(), targets.clone())
        for kind_of_batch, batches in {"": repeat(same), ", new batches": cycle([same, other])}.items():
            # one for each: a pipeline knows the last batch alone
            pipeline = Pipeline(stages[rank], CrossEntropy(), microbatches=microbatches, schedule=name)
            steps[name + kind_of_batch] = partial(_ours, pipeline, batches)
    return steps


def _bare(schedule: Any, own: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    own.zero_grad()
    last = dist.get_rank() == dist.get_world_size() - 1
    schedule.step(*((inputs,) if dist.get_rank() == 0 else ()), target=targets if last else None, return_outputs=False)


def _ours(pipeline: Pipeline, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    """A batch that is not that of the step before is checked, and all workers wait for what the others say of it."""
    pipeline.backward(pipeline.forward(*next(batches)))


if __name__ == "__main__":
    main()
