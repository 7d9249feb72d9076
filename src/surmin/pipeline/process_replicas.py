"""Replicas of a pipeline that are processes: a (dp, pp) mesh, and averaging over dp."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from surmin.launch.group import answer_from
from surmin.pipeline.traffic import Traffic

DIMENSIONS = ("dp", "pp")
Mesh = DeviceMesh | Sequence[Sequence[int]]
"""With these dimensions; or its ranks, one row per replica's pipe, for which torch makes no groups."""
SEED_STRIDE = 0x9E3779B9


class ProcessReplicas:
    """The processes at one place in their pipes, linked by all-reduces.

    An all-reduce is counted as what a ring sends, the minimum: 2(R - 1) messages per worker among R, together
    2(R - 1)/R times the tensor's bytes.

    Args:
        group: of these processes.
        device: where its tensors must be.
        traffic: counts this worker's part.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device, traffic: Traffic) -> None:
        self._group = group
        self._device = device
        self._traffic = traffic
        self._count = dist.get_world_size(group)

    def connect(self) -> None:
        """Link them while all are known to be there: NCCL does it at the first all-reduce, and waits without limit."""
        with answer_from(None):
            dist.all_reduce(torch.zeros(1, device=self._device), group=self._group)

    def mean(self, values: Tensor) -> Tensor:
        """Sum and divide."""
        return self._reduced(values, dist.ReduceOp.SUM) / self._count

    def means(self, vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        """In one all-reduce."""
        if not vectors:
            return vectors
        return self.mean(torch.cat(list(vectors))).split([len(vector) for vector in vectors])

    def largest(self, values: Tensor) -> Tensor:
        """The elementwise maximum."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def own_seed(self, seed: int) -> int:
        """Different in the lower 32 bits, which are all that torch's generator uses."""
        return (seed + SEED_STRIDE * dist.get_rank(self._group)) % 2**63

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        reduced = values.detach().to(self._device, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(reduced, operation, group=self._group)
        hops = 2 * (self._count - 1)
        self._traffic.messages += hops
        self._traffic.bytes += hops * reduced.nbytes // self._count
        return reduced.to(values.device)


def pipes_of(mesh: Mesh | None) -> list[list[int]]:
    """The ranks of every replica's pipe, from first stages to last; without a mesh, one pipe of all processes.

    Raises:
        ValueError: if the mesh does not have the dimensions dp and pp, rows of one length, or every process once.
    """
    everyone = list(range(dist.get_world_size()))
    if mesh is None:
        return [everyone]
    if isinstance(mesh, DeviceMesh):
        if mesh.mesh_dim_names != DIMENSIONS:
            raise ValueError(f"a mesh needs the dimensions {DIMENSIONS}, got {mesh.mesh_dim_names}")
        mesh = mesh.mesh.tolist()
    pipes = [list(pipe) for pipe in mesh]
    if len({len(pipe) for pipe in pipes}) != 1:
        raise ValueError(f"a mesh needs equally many processes in every pipe, got {pipes}")
    if sorted(rank for pipe in pipes for rank in pipe) != everyone:
        raise ValueError(f"a mesh needs all {len(everyone)} processes, each once, got {pipes}")
    return pipes
