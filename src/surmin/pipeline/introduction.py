"""What workers tell each other when a pipeline is made: what each holds, and what keeps them from working together."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

import torch
import torch.distributed as dist
from torch import nn

from surmin.digest import digest_of
from surmin.launch.group import answer_from
from surmin.losses import ConvexLoss
from surmin.pipeline.checks.batches import check_microbatches
from surmin.pipeline.checks.losses import check_loss
from surmin.pipeline.checks.modules import check_modules
from surmin.pipeline.comparison import complaints_of, decode_status, encode_status
from surmin.pipeline.schedule_names import SCHEDULES
from surmin.stages.block import cut_blocks
from surmin.stages.stage import Stage

GIVEN = {"microbatches": "numbers of micro-batches", "schedule": "schedules", "mesh": "meshes"}
GPU_WITHOUT_NCCL = -1


class Held(NamedTuple):
    """What the others need to know about a worker's stages.

    Attributes:
        stages: how many it holds.
        layers: how many layers these have.
        layer_blocks: how many blocks with parameters, if every layer is one.
        stage_blocks: the same, if every stage is one.
        fingerprint: of all parameters and buffers; equal on replicas, different on workers of one pipe.
        microbatches: how many it would cut a batch into.
        schedule: a number for its name.
        mesh: a number for the ranks of its pipes.
        gpu: a number for the GPU it computes on, unique over machines; 0 for a CPU, `GPU_WITHOUT_NCCL` without NCCL.
    """

    stages: int
    layers: int
    layer_blocks: int
    stage_blocks: int
    fingerprint: int
    microbatches: int
    schedule: int
    mesh: int
    gpu: int

    @classmethod
    def of(cls, modules: Sequence[nn.Module], setup: "Setup", device: torch.device) -> "Held":
        """What a worker with these stages tells."""
        stages = [Stage.of(module) for module in modules]
        layer_blocks, stage_blocks = (
            sum(block.size > 0 for own in cut_blocks(stages, kind) for block in own) for kind in ("layer", "stage")
        )
        layers = sum(len(stage.layers) for stage in stages)
        schedule, mesh = (crc32(repr(own).encode()) for own in (setup.schedule, setup.pipes))
        return cls(
            len(stages), layers, layer_blocks, stage_blocks, _fingerprint(stages), setup.microbatches, schedule, mesh,
            _gpu(device),
        )  # fmt: skip


class Setup(NamedTuple):
    """What all workers must be given alike.

    Attributes:
        loss: of the network's output.
        microbatches: equal parts that a batch is cut into.
        schedule: name of one.
        pipes: ranks of every pipe's workers.
    """

    loss: ConvexLoss
    microbatches: int
    schedule: str
    pipes: list[list[int]]

    def check(self) -> None:
        """Raise ValueError or TypeError for impossible values."""
        check_loss(self.loss)
        check_microbatches(self.microbatches)
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}; zero-bubble schedules do "
                "not work with the autograd functions used here"
            )
        workers = len(self.pipes[0])
        if self.schedule == "1f1b" and self.microbatches < workers:
            raise ValueError(
                f"1F1B needs at least as many micro-batches as workers, got {self.microbatches} for {workers}"
            )


def introduce(modules: Sequence[nn.Module], setup: Setup, device: torch.device, group: dist.ProcessGroup) -> list[Held]:
    """Tell all workers what this one holds; returns what all hold, by rank.

    Raises:
        ValueError: on all of them, if one cannot train what it holds, replicas or given values differ, a schedule of
            torch's lacks GPUs, or no worker has anything to train.
    """
    complaint, own = _tell(modules, setup, device)
    told = encode_status((complaint, ",".join(map(str, own))))
    everyone = [torch.empty_like(told) for _ in range(dist.get_world_size())]
    with answer_from(None):
        dist.all_gather(everyone, told, group=group)
    statuses = [decode_status(answer) for answer in everyone]
    everything = [Held(*map(int, text.split(","))) for _, text in statuses]
    trouble = complaints_of(dict(enumerate(complaint for complaint, _ in statuses))) or _trouble(everything, setup)
    if trouble:
        with answer_from(None):
            dist.barrier(group)  # before anybody lets the group go
        raise ValueError(trouble)
    _warn_of_twins(everything, setup.pipes[0])
    return everything


def _warn_of_twins(everything: Sequence[Held], pipe: Sequence[int]) -> None:
    """Warn if workers of a pipe start with equal parameters: they probably all hold the same stages."""
    found: dict[int, int] = {}
    for rank in (rank for rank in pipe if everything[rank].layer_blocks):
        twin = found.setdefault(everything[rank].fingerprint, rank)
        if twin != rank:
            warnings.warn(
                f"workers {twin} and {rank} begin with the same parameters: each must hold its own stages, "
                "stages[rank] of the list that partition returns",
                stacklevel=5,
            )
            return


def _trouble(everything: Sequence[Held], setup: Setup) -> str:
    """What keeps workers that hold this from working together; empty if nothing."""
    for name, words in GIVEN.items():
        if len({getattr(own, name) for own in everything}) > 1:
            return f"the workers were given different {words}: give all of them the same"
    strangers = [
        f"worker {rank} does not begin with the parameters of worker {first}, its replica: build both from the same "
        "seed, or load the same checkpoint"
        for first, *others in zip(*setup.pipes, strict=True)
        for rank in others
        if everything[rank]._replace(gpu=0) != everything[first]._replace(gpu=0)
    ]
    if strangers:
        return "; ".join(strangers)
    if setup.schedule != "posted" and any(own.gpu for own in everything) and not have_a_gpu_each(everything):
        return f"schedule {setup.schedule} needs a GPU for every worker, and NCCL: use schedule posted, or device cpu"
    if not any(own.layer_blocks for own in everything):
        return "no parameter of the network requires a gradient: there is nothing to train"
    return ""


def have_a_gpu_each(told: Sequence[Held]) -> bool:
    """Whether every worker computes on a GPU that no other uses, and can send from it."""
    gpus = [own.gpu for own in told]
    return not {0, GPU_WITHOUT_NCCL}.intersection(gpus) and len(set(gpus)) == len(gpus)


def _tell(modules: Sequence[nn.Module], setup: Setup, device: torch.device) -> tuple[str, Held]:
    """A complaint, empty if none, and what is held."""
    try:
        check_modules(modules, others_train=True)
        setup.check()
        return "", Held.of(modules, setup, device)
    except Exception as error:  # whatever it is, the others wait to hear of it
        return str(error) or type(error).__name__, Held(*[0] * len(Held._fields))


def _fingerprint(stages: Sequence[Stage]) -> int:
    """Fingerprint of all parameters and buffers, frozen ones included."""
    digest = digest_of(
        (f"{layer.name}.{name}", tensor)
        for stage in stages
        for layer in stage.layers
        for name, tensor in (*layer.module.named_parameters(), *layer.module.named_buffers())
    )
    return int(digest[:16], 16)


def _gpu(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    if not dist.is_nccl_available():
        return GPU_WITHOUT_NCCL
    return 1 + crc32(str(torch.cuda.get_device_properties(device).uuid).encode())
