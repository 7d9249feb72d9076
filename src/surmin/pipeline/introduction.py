"""What workers tell each other when a pipeline is made: what each holds, and what keeps them from working together."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

import torch
import torch.distributed as dist
from torch import nn

from surmin.pipeline.comparison import decode_status, encode_status
from surmin.pipeline.validation import check_modules
from surmin.stages.block import cut_blocks
from surmin.stages.stage import Stage


class Held(NamedTuple):
    """What the others need to know of a worker's stages.

    Attributes:
        layers: how many it holds.
        layer_blocks: how many blocks with parameters, where every layer is one.
        stage_blocks: the same, where every stage is one.
        fingerprint: of all parameters and buffers.
        schedule: a number for its name.
        gpu: a number for the one of all machines' that it computes on; 0 for a processor, and without NCCL.
    """

    layers: int
    layer_blocks: int
    stage_blocks: int
    fingerprint: int
    schedule: int
    gpu: int

    @classmethod
    def of(cls, modules: Sequence[nn.Module], schedule: str, device: torch.device) -> "Held":
        """What a worker with these stages tells."""
        stages = [Stage.of(module) for module in modules]
        layer_blocks, stage_blocks = (
            sum(block.size > 0 for own in cut_blocks(stages, kind) for block in own) for kind in ("layer", "stage")
        )
        layers = sum(len(stage.layers) for stage in stages)
        return cls(layers, layer_blocks, stage_blocks, _fingerprint(stages), crc32(schedule.encode()), _gpu(device))


def introduce(
    modules: Sequence[nn.Module], schedule: str, device: torch.device, group: dist.ProcessGroup,
    pipes: Sequence[Sequence[int]],
) -> list[Held]:  # fmt: skip
    """Tell all workers what this one holds; returns what all hold, by rank.

    Raises:
        ValueError: on all of them, when one cannot train what it holds, replicas or schedules differ, or none has
            anything to train.
    """
    complaint, own = _tell(modules, schedule, device)
    told = encode_status((complaint, ",".join(map(str, own))))
    everyone = [torch.empty_like(told) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, told, group=group)
    statuses = [decode_status(answer) for answer in everyone]
    everything = [Held(*map(int, text.split(","))) for _, text in statuses]
    trouble = [f"worker {rank}: {complaint}" for rank, (complaint, _) in enumerate(statuses) if complaint]
    trouble = trouble or [
        f"worker {rank} does not begin with the parameters of worker {first}, its replica: build both from the same "
        "seed, or load the same checkpoint"
        for first, *others in zip(*pipes, strict=True)
        for rank in others
        if everything[rank]._replace(gpu=0) != everything[first]._replace(gpu=0)
    ]
    if len({own.schedule for own in everything}) > 1:
        trouble.append("the workers were given different schedules: give all of them the same")
    if trouble:
        raise ValueError("; ".join(trouble))
    if not any(own.layer_blocks for own in everything):
        raise ValueError("no parameter of the network requires a gradient: there is nothing to train")
    return everything


def have_a_gpu_each(told: Sequence[Held]) -> bool:
    """Whether every worker computes on a GPU that no other one uses, and can send from it."""
    gpus = [own.gpu for own in told]
    return 0 not in gpus and len(set(gpus)) == len(gpus)


def _tell(modules: Sequence[nn.Module], schedule: str, device: torch.device) -> tuple[str, Held]:
    """A complaint, empty for none, and what is held."""
    try:
        check_modules(modules, others_train=True)
        return "", Held.of(modules, schedule, device)
    except Exception as error:  # whatever it is, the others wait for word of it
        return str(error) or type(error).__name__, Held(0, 0, 0, 0, crc32(schedule.encode()), 0)


def _fingerprint(stages: Sequence[Stage]) -> int:
    """Of all parameters and buffers, frozen ones included."""
    digest = blake2b(digest_size=8)
    for layer in (layer for stage in stages for layer in stage.layers):
        for name, tensor in (*layer.module.named_parameters(), *layer.module.named_buffers()):
            digest.update(f"{layer.name}.{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest())


def _gpu(device: torch.device) -> int:
    if device.type != "cuda" or not dist.is_nccl_available():
        return 0
    return 1 + crc32(str(torch.cuda.get_device_properties(device).uuid).encode())
