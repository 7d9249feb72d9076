"""What a worker knows about batches it has seen: whether one comes again, and a stand-in for its outputs."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.errors import as_value_error
from surmin.pipeline.checks.batches import check_batch, describe_batch
from surmin.pipeline.reuse import NotedBatch
from surmin.pipeline.watch import NetworkWatch
from surmin.stages.stage import Stage
from surmin.stages.tape import Tape


@dataclass(frozen=True)
class Seen:
    """A new batch, before anything is sent.

    Attributes:
        described: what must be the same on all workers.
        purpose: what is to be done with it.
        is_known: whether it is the last one, unchanged, and one of its description has been through for this purpose.
        like: a stand-in for its outputs, if one of its description has been through for this purpose.
        complaint: what is wrong with the network or, if it is not known, with the batch, as far as this worker sees.
    """

    described: str
    purpose: str
    is_known: bool
    like: Tensor | None
    complaint: ValueError | TypeError | None


class SeenBatches:
    """The batches one worker has seen; a known batch is not checked again.

    Args:
        stages: those that the worker holds.
        microbatches: equal parts that a batch is cut into.

    Attributes:
        watch: of the stages.
    """

    def __init__(self, stages: Sequence[Stage], microbatches: int) -> None:
        self.watch = NetworkWatch(stages)
        self._stages = stages
        self._microbatches = microbatches
        parameters = (value for stage in stages for layer in stage.layers for value in layer.parameters.values())
        self._parameter = next(parameters, None)
        self._outputs: dict[tuple[str, str], Tensor] = {}
        self._last = NotedBatch()

    def see(self, inputs: Tensor, targets: Tensor, purpose: str) -> Seen:
        """Check a batch and the network."""
        described = describe_batch(inputs, targets, self._microbatches)
        like = self._outputs.get((described, purpose))
        is_known = like is not None and self._last.is_same(inputs, targets)
        complaint = None
        try:
            self.watch.check()
            if not is_known:
                check_batch(inputs, targets, self._microbatches, self._parameter)
        except (ValueError, TypeError) as error:
            complaint = error
        return Seen(described, purpose, is_known, like, complaint)

    def note(self, seen: Seen, inputs: Tensor, targets: Tensor, like: Tensor) -> None:
        """All workers went through with it; from now on `like` stands for outputs of batches of its description."""
        self._outputs.setdefault((seen.described, seen.purpose), like)
        if not seen.is_known:
            self._last = NotedBatch.of(inputs, targets)

    @torch.no_grad()
    def misfit(self, part: Tensor) -> ValueError | TypeError | None:
        """What keeps the stages here from running on a micro-batch of a new shape; it is run, uncounted."""
        try:
            for stage in self._stages:
                part = stage.output(part)
        except (ValueError, TypeError) as error:
            return error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            return fit_error(error)
        return None

    def samples_error(self, tapes: Sequence[Tape]) -> ValueError | None:
        """What is wrong with a micro-batch's way through the stages here, by its tapes."""
        try:
            with suppress(RuntimeError):  # a module that takes only samples like these
                self.watch.check_samples(tapes)
        except ValueError as error:
            return error
        return None


def fit_error(error: Exception) -> ValueError:
    """What torch or a module said about the first batch of a shape, and at which layer if it was torch."""
    return as_value_error(": ".join(["the batch does not fit the network", *getattr(error, "__notes__", ())]), error)
