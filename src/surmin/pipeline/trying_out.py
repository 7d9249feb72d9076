"""Checking batches without a wave: workers do not wait for each other unless there are replicas."""

from collections.abc import Sequence

import torch
from torch import Tensor

from surmin.pipeline.channel import DTYPES, MAX_DIMENSIONS
from surmin.pipeline.checks.losses import outputs_error
from surmin.pipeline.held_stages import HeldStages
from surmin.pipeline.links import Links, agreeing
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.wave import part_shape
from surmin.replicas import ONE_REPLICA
from surmin.stages.tape import Tape

PURPOSE = "messages between neighbours"


def check_without_wave(pipeline: HeldStages, links: Links, inputs: Tensor, targets: Tensor) -> torch.Size:
    """The first batch of every shape is tried out and compared by all workers; later ones each worker checks alone.

    Returns:
        The shape of one sample of the network's output.

    Raises:
        ValueError: if the batch does not fit; on all workers for the first of a shape, or if there are replicas.
        TypeError: likewise.
    """
    seen = pipeline.batches.see(inputs, targets, PURPOSE)
    like, complaint = seen.like, seen.complaint
    if like is None:
        if pipeline.is_first:  # the others would wait in vain
            complaint = complaint or pipeline.batches.misfit(inputs.chunk(pipeline.microbatches)[0])
        links.compare(seen.described, complaint, wait=True)
        with pipeline.traffic.uncounted():
            like = _try_out(pipeline, links, inputs, targets)
    else:
        if not seen.is_known:
            complaint = complaint or outputs_error(pipeline.loss, [(like, targets)])
        if pipeline.replicas is not ONE_REPLICA:
            links.compare(seen.described, complaint, wait=True)
        elif complaint:
            raise complaint
    pipeline.batches.note(seen, inputs, targets, like)
    return like.shape[1:]


def _try_out(pipeline: HeldStages, links: Links, inputs: Tensor, targets: Tensor) -> Tensor:
    """Run a batch through the stages, uncounted; returns a stand-in for outputs like its, the same on every worker."""
    operations = pipeline.work.operations
    entering, output = pipeline.pass_through(inputs)
    with agreeing(links):
        try:
            tapes = _tapes(pipeline, entering, part_shape(inputs.shape, pipeline.microbatches))
        finally:
            pipeline.work.operations = operations
        outputs = [(output, targets)] if pipeline.is_last else []
        complaint = pipeline.batches.samples_error(tapes) or outputs_error(pipeline.loss, outputs)
        if not complaint and pipeline.is_last and (output.dtype not in DTYPES or output.dim() > MAX_DIMENSIONS):
            complaint = ValueError(f"outputs of type {output.dtype} and shape {list(output.shape)} cannot be described")
        if complaint:
            raise complaint
    return _like_outputs(output, links, pipeline.traffic)


def _tapes(pipeline: HeldStages, entering: Tensor, part: torch.Size) -> Sequence[Tape]:
    """Tapes of the first micro-batch, up and down, so that the unit of work is known."""
    state, tapes = entering[: part[0]], []
    for position in range(len(pipeline.stages)):
        with torch.enable_grad():
            tape = pipeline.forward_stage(position, state, part)
        pipeline.backward_stage(position, tape, torch.zeros_like(tape.output), part, {})
        tapes.append(tape)
        state = tape.output.detach()
    return tapes


def _like_outputs(output: Tensor, links: Links, traffic: Traffic) -> Tensor:
    """Zeros like the last worker's outputs, on every worker, taking no memory."""
    told = torch.zeros(2 + MAX_DIMENSIONS, dtype=torch.float64)
    if links.is_last:
        own = [DTYPES.index(output.dtype), output.dim(), *output.shape]
        told[: len(own)] = torch.tensor(own)
    kind, dimensions, *sizes = map(round, links.total(told, traffic))
    return output.new_zeros((), dtype=DTYPES[kind]).expand(sizes[:dimensions])
