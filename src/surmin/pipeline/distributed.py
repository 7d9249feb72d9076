"""The pipeline over processes: every one holds its stages, and runs the same waves at its place."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from surmin.losses import ConvexLoss
from surmin.pipeline.channel import Route
from surmin.pipeline.process_links import ProcessLinks, decode_status, encode_status
from surmin.pipeline.scheduled import ScheduledGradients
from surmin.pipeline.validation import check_modules
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.block import cut_blocks
from surmin.stages.stage import Stage

ScheduleName = Literal["posted", "gpipe", "1f1b"]
TIMEOUT = 300.0


class Pipeline(WorkerPipeline):
    """This worker's stages of a network that is spread over the processes of torch's default process group.

    Worker 0 holds the first stages, the last worker the last. All workers make the same calls with the same batches.
    Work, messages and bytes are this worker's own.

    Args:
        stages: the module or consecutive modules that this worker holds, each a stage.
        loss: the convex loss of the network's output, the same on every worker.
        microbatches: equal parts that a batch is cut into.
        schedule: how the forward and the gradient wave of a new batch go: "gpipe" or "1f1b" by
            `torch.distributed.pipelining`, or "posted", which goes like GPipe but posts all receives ahead: over slow
            links a message then takes one latency instead of three.
        timeout: seconds to wait for another worker.

    Raises:
        ValueError: on every worker, when a module of one cannot be trained this way, saying which and why.
        RuntimeError: when torch's process group has not been initialised.
    """

    def __init__(
        self, stages: nn.Module | Sequence[nn.Module], loss: ConvexLoss, *, microbatches: int = 1,
        schedule: ScheduleName = "posted", timeout: float = TIMEOUT,
    ) -> None:  # fmt: skip
        if not dist.is_initialized():
            raise RuntimeError(
                "torch's process group is not initialised: start with `surmin train --workers`, or with torchrun and "
                "torch.distributed.init_process_group()"
            )
        modules = [stages] if isinstance(stages, nn.Module) else list(stages)
        patience = timedelta(seconds=timeout)
        control = Route(_group("gloo", patience), torch.device("cpu"), posts_ahead=True)
        everyone = _tell_everyone(_layout(modules), _complaint(modules), control.group)
        own, device = everyone[dist.get_rank()], _device(modules)
        first_layer = sum(layout[0] for layout in everyone[: dist.get_rank()])
        own_stages: list[Stage] = []
        for module in modules:
            own_stages.append(Stage.of(module, first_layer + sum(len(stage.layers) for stage in own_stages)))
        assert sum(len(stage.layers) for stage in own_stages) == own[0]
        backend = "nccl" if device.type == "cuda" else "gloo"
        blocks = {"layer": [layout[1] for layout in everyone], "stage": [layout[2] for layout in everyone]}
        routes = {
            wave: Route(_group(backend, patience), device, posts_ahead=backend == "gloo")
            for wave in ("activations", "curvature")
        }
        links = ProcessLinks(range(dist.get_world_size()), blocks, {**routes, "control": control})
        super().__init__(own_stages, loss, microbatches, links, frozenset())
        self._processes = links
        self._scheduled: ScheduledGradients | None = None
        if schedule != "posted":
            self._scheduled = ScheduledGradients(self, schedule, _group(backend, patience), device)

    def flush(self) -> None:
        """Wait until everything has been sent; to be called before the process group is destroyed."""
        self._processes.flush()

    def _run_first(self, inputs: Tensor, targets: Tensor) -> Wave:
        """By torch's schedule where one was asked for and a gradient wave is to follow."""
        if self._scheduled is None or not torch.is_grad_enabled():
            return super()._run_first(inputs, targets)
        self.traffic.forward_waves += 1
        return self._scheduled.run(inputs, targets)


def _group(backend: str, timeout: timedelta) -> dist.ProcessGroup:
    group = dist.new_group(backend=backend, timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _complaint(modules: Sequence[nn.Module]) -> str:
    try:
        check_modules(modules, others_train=True)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _layout(modules: Sequence[nn.Module]) -> list[int]:
    """How many layers, blocks of a layer, and blocks of a stage that train."""
    stages = [Stage.of(module) for module in modules if isinstance(module, nn.Module)]
    blocks = [sum(block.size > 0 for own in cut_blocks(stages, kind) for block in own) for kind in ("layer", "stage")]
    return [sum(len(stage.layers) for stage in stages), *blocks]


def _device(modules: Sequence[nn.Module]) -> torch.device:
    parameter = next((parameter for module in modules for parameter in module.parameters()), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _tell_everyone(layout: Sequence[int], complaint: str, group: dist.ProcessGroup) -> list[list[int]]:
    """The layouts of all workers.

    Raises:
        ValueError: on all of them, when one has a complaint or none has anything to train.
    """
    told = encode_status((complaint, ",".join(map(str, layout))))
    everyone = [torch.empty_like(told) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, told, group=group)
    statuses = [decode_status(answer) for answer in everyone]
    trouble = [f"worker {rank}: {complaint}" for rank, (complaint, _) in enumerate(statuses) if complaint]
    if trouble:
        raise ValueError("; ".join(trouble))
    layouts = [[int(number) for number in text.split(",")] for _, text in statuses]
    if not any(trainable for _, trainable, _ in layouts):
        raise ValueError("no parameter of the network requires a gradient: there is nothing to train")
    return layouts
