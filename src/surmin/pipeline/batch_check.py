"""Checking batches without a wave: workers that need not wait for each other do not; replicas need to."""

import torch
from torch import Tensor

from surmin.pipeline.channel import DTYPES, MAX_DIMENSIONS
from surmin.pipeline.held_stages import HeldStages
from surmin.pipeline.links import Links
from surmin.pipeline.reuse import NotedBatch
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.validation import describe_batch, outputs_error
from surmin.pipeline.wave import part_shape
from surmin.replicas import ONE_REPLICA
from surmin.stages.tape import Tape


class BatchCheck:
    """The first batch of every shape is tried out and compared by all workers; of later ones each checks its own.

    Args:
        pipeline: holds the stages.
        links: to the workers with the stages before and after these.
    """

    def __init__(self, pipeline: HeldStages, links: Links) -> None:
        self._pipeline = pipeline
        self._links = links
        self._outputs: dict[str, Tensor] = {}
        self._checked = NotedBatch()

    def check(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError or TypeError for a batch that does not fit; on all for the first of a shape, or replicas."""
        is_known = self._checked.is_same(inputs, targets)
        complaint = self._pipeline.batch_error(None if is_known else (inputs, targets))
        described = describe_batch(inputs, targets, self._pipeline.microbatches)
        if described not in self._outputs:
            self._links.compare(described, complaint, wait=True)
            output, tapes = self._try_out(inputs)
            outputs = self._like_outputs(output)
            complaint = self._pipeline.samples_error(tapes) or self._outputs_error(outputs, targets)
            self._links.compare("", complaint, wait=True)
            self._outputs[described] = outputs
        else:
            if not is_known:
                complaint = complaint or self._outputs_error(self._outputs[described], targets)
            if self._pipeline.replicas is not ONE_REPLICA:
                self._links.compare(described, complaint, wait=True)
            elif complaint:
                raise complaint
        self._checked = NotedBatch.of(inputs, targets)

    def _outputs_error(self, outputs: Tensor, targets: Tensor) -> ValueError | TypeError | None:
        """What is wrong with targets for outputs of the network like these."""
        return outputs_error(self._pipeline.loss, [(outputs, targets)])

    def _like_outputs(self, outputs: Tensor) -> Tensor:
        """Zeros, without memory of their own, like the last worker's outputs; on every worker."""
        told = torch.zeros(2 + MAX_DIMENSIONS, dtype=torch.float64)
        if self._pipeline.is_last:
            own = [DTYPES.index(outputs.dtype), outputs.dim(), *outputs.shape]
            told[: len(own)] = torch.tensor(own)
        kind, dimensions, *sizes = map(round, self._links.total(told, Traffic()))
        return outputs.new_zeros((), dtype=DTYPES[kind]).expand(sizes[:dimensions])

    def _try_out(self, inputs: Tensor) -> tuple[Tensor, list[Tape]]:
        """The outputs for a batch; and the tapes of a micro-batch, up and down so that the unit of work is known."""
        pipeline = self._pipeline
        operations = pipeline.work.operations
        part = part_shape(inputs.shape, pipeline.microbatches)
        entering, output = pipeline.pass_through(inputs)
        state, tapes = entering[: part[0]], []
        for position in range(len(pipeline.stages)):
            with torch.enable_grad():
                tape = pipeline.forward_stage(position, state, part)
            pipeline.backward_stage(position, tape, torch.zeros_like(tape.output), part)
            tapes.append(tape)
            state = tape.output.detach()
        pipeline.work.operations = operations
        return output, tapes
