"""The pipeline over processes: each holds its stages and runs the same waves at its place."""

import math
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from surmin.launch.group import answer_from
from surmin.losses import ConvexLoss
from surmin.pipeline.channel import CPU, Route, connect
from surmin.pipeline.held_stages import Boundaries
from surmin.pipeline.introduction import Setup, have_a_gpu_each, introduce
from surmin.pipeline.process_links import CLOSED, ProcessLinks
from surmin.pipeline.process_replicas import Mesh, ProcessReplicas, pipes_of
from surmin.pipeline.schedule_names import ScheduleName
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.replicas import ONE_REPLICA, Replicas
from surmin.stages.stage import modules_of, stages_of

if TYPE_CHECKING:
    from surmin.pipeline.scheduled import ScheduledGradients

Backend = Literal["nccl", "gloo"]
TIMEOUT = 300.0
NO_DUMP = "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC", "0"
"""NCCL otherwise waits a minute after a timeout before it ends the process, in case something wants a dump."""


class Pipeline(WorkerPipeline):
    """This worker's stages of a network that is spread over the processes of torch's default process group.

    Without a mesh, worker 0 holds the first stages, the last worker the last, and all make the same calls with the same
    batches. With a mesh, every row of it is such a pipe: a replica of the network, called with its own share of the
    batch, all shares equally large. Gradients, losses and curvature are then averaged over replicas. The local phase
    communicates between replicas (one all-reduce per curvature product), but never between stages. With the whole
    batch's curvature the steps are those of one process with all shares; otherwise every replica draws samples and
    columns from its own. Work, messages and bytes are this worker's own; `ProcessReplicas` says how all-reduces count.

    Training changes only this worker's stages, even if every worker cut a whole model. `predict` runs the whole
    network, and `save_checkpoint` saves all of its parameters.

    Message buffers are kept for every batch shape seen so far, so pad sequences to a few lengths.

    If every worker has its own GPU, messages go between GPUs by NCCL. If some share a GPU or have none, everything goes
    through CPU memory, by gloo.

    Args:
        stages: the module or consecutive modules that this worker holds, each a stage.
        loss: the convex loss of the network's output, the same on every worker.
        microbatches: equal parts that a batch is cut into.
        schedule: how the forward and gradient waves of a new batch run: "gpipe" or "1f1b" by
            `torch.distributed.pipelining`, or "posted", which runs like GPipe but posts all receives ahead: over slow
            links a message then takes one latency instead of two or three.
        timeout: seconds to wait for another worker, also while a checkpoint is written.
        mesh: all processes: for every replica's pipe a row of ranks, from its first stages to its last; or a
            `DeviceMesh` with dimensions ("dp", "pp").
        device: where this worker's stages and batches are; by default where its parameters are, or the CPU if it has
            none.

    Raises:
        ValueError: on every worker, if a module on any of them cannot be trained this way, replicas do not start with
            equal parameters, or workers share a GPU though torch's schedules need one each; the message names it.
        RuntimeError: if torch's process group is not initialised.
    """

    def __init__(
        self, stages: nn.Module | Sequence[nn.Module], loss: ConvexLoss, *, microbatches: int = 1,
        schedule: ScheduleName = "posted", timeout: float = TIMEOUT, mesh: Mesh | None = None,
        device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        if not dist.is_initialized():
            raise RuntimeError(
                "torch's process group is not initialised: start with `surmin train --workers`, or with torchrun and "
                "torch.distributed.init_process_group()"
            )
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a positive number of seconds, got {timeout}")
        modules = modules_of(stages)
        setup = Setup(loss, microbatches, schedule, pipes_of(mesh))
        self._patience = timedelta(seconds=timeout)
        self._groups: list[dist.ProcessGroup] = []
        self._device = _device(modules) if device is None else torch.device(device)
        try:
            self._join(modules, setup)
        except BaseException:
            self._drop_groups()
            raise

    def _join(self, modules: Sequence[nn.Module], setup: Setup) -> None:
        """Meet the other workers and connect to them, group by group in the same order everywhere."""
        pipes, traffic = setup.pipes, Traffic()
        pipe = next(pipe for pipe in pipes if dist.get_rank() in pipe)
        control = Route.of_processor(self._group("gloo", [range(dist.get_world_size())]))
        told = introduce(modules, setup, self._device, control.group)
        backend: Backend = "nccl" if have_a_gpu_each(told) else "gloo"
        held = [told[rank] for rank in pipe]
        blocks = {"layer": [own.layer_blocks for own in held], "stage": [own.stage_blocks for own in held]}
        routes = self._routes(pipe, backend) | {"control": control}
        replicas = self._replicas(pipes, backend, traffic)
        self._processes = ProcessLinks(pipes, [own.stages for own in held], blocks, routes, replicas)
        stages = stages_of(modules, sum(own.layers for own in held[: pipe.index(dist.get_rank())]))
        super().__init__(stages, setup.loss, setup.microbatches, self._processes, frozenset(), replicas, traffic)
        self.batches.watch.keep_kinds()
        self._scheduled = None
        if setup.schedule != "posted":
            self._hears_all = True  # once torch's schedule runs, no worker can be told that another does not
            self._scheduled = self._by_torch(setup.schedule, self._group(backend, pipes))

    def _routes(self, pipe: Sequence[int], backend: Backend) -> dict[str, Route]:
        """What waves go by, linked to this worker's neighbours, and what needs tags, which NCCL does not tell apart."""
        everyone = [range(dist.get_world_size())]
        if backend == "nccl":
            os.environ.setdefault(*NO_DUMP)
        route = Route.of_devices if backend == "nccl" else Route.of_processor
        routes = {wave: route(self._group(backend, everyone), self._device) for wave in ("activations", "curvature")}
        for to_neighbours in routes.values():
            connect(to_neighbours, pipe)
        by_tag = self._group("gloo", everyone) if backend == "nccl" else routes["activations"].group
        return routes | {"channels": Route.of_processor(by_tag, self._device)}

    def _replicas(self, pipes: Sequence[Sequence[int]], backend: Backend, traffic: Traffic) -> Replicas:
        if len(pipes) == 1:
            return ONE_REPLICA
        same_place = list(zip(*pipes, strict=True))
        device = self._device if backend == "nccl" else CPU
        replicas = ProcessReplicas(self._group(backend, same_place), device, traffic)
        replicas.connect()
        return replicas

    def _by_torch(self, schedule: str, group: dist.ProcessGroup) -> "ScheduledGradients":
        from surmin.pipeline.scheduled import ScheduledGradients  # here: importing torch's schedules takes a second

        return ScheduledGradients(self, schedule, group)

    @property
    def group(self) -> dist.ProcessGroup:
        """The group of all workers, over their CPUs."""
        if not self._groups:
            raise RuntimeError(CLOSED)
        return self._groups[0]

    @property
    def device(self) -> torch.device:
        """Where this worker's stages and batches are."""
        return self._device

    def flush(self) -> None:
        """Wait until everything has been sent; call it on all workers before the process group is destroyed."""
        for exchange in self._exchanges:
            exchange.settle()
        self._processes.flush()

    def close(self) -> None:
        """Flush, and release this pipeline's process groups; call it on all workers if the program goes on without it.

        Otherwise torch keeps them, with their sockets, until `destroy_process_group()`.
        """
        if not self._groups:
            return
        try:
            self.flush()
            with answer_from(None):
                dist.barrier(self._groups[0])
        finally:
            self._processes.close()
            self._drop_groups()

    def __deepcopy__(self, memo: object) -> "Pipeline":
        raise TypeError("a Pipeline is linked to other processes and cannot be copied: copy its modules")

    def _drop_groups(self) -> None:
        while self._groups:
            dist.destroy_process_group(self._groups.pop())

    def _group(self, backend: Backend, sets: Sequence[Sequence[int]]) -> dist.ProcessGroup:
        """A new group for each of these sets of ranks, made in the same order everywhere; returns this worker's own.

        Ranks in a group are ordered as in its set, like places in a pipe.
        """
        with answer_from(None):
            made = [
                dist.new_group(list(ranks), timeout=self._patience, backend=backend, sort_ranks=False) for ranks in sets
            ]
        (group,) = [group for group, ranks in zip(made, sets, strict=True) if dist.get_rank() in ranks]
        assert isinstance(group, dist.ProcessGroup)
        self._groups.append(group)
        return group

    def _run_first(self, inputs: Tensor, targets: Tensor, boundaries: Boundaries | None, *, is_checked: bool) -> Wave:
        """By torch's schedule, together with its gradient wave, if one was requested."""
        if self._scheduled is None:
            return super()._run_first(inputs, targets, boundaries, is_checked=is_checked)
        self.traffic.forward_waves += 1
        return self._scheduled.run(inputs, targets, boundaries, is_checked=is_checked)


def _device(modules: Sequence[nn.Module]) -> torch.device:
    held = [module for module in modules if isinstance(module, nn.Module)]  # all complain of what is not a module
    parameter = next((parameter for module in held for parameter in module.parameters()), None)
    return CPU if parameter is None else parameter.device
