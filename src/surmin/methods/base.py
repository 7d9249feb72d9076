"""The interface of a training method, and the counting that is the same for all of them."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport


class Method(Protocol):
    """What trains a network, one outer iteration ("round") at a time."""

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One round on one batch; tells what it cost."""

    def state_dict(self) -> dict[str, Any]:
        """What, with the network's parameters, continues the run exactly: tensors, numbers, strings, freely nested."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; raises ValueError when it is another method's."""


class StepMeter:
    """Counts what a pipeline does from here to `report`, for methods that have no model of the loss."""

    def __init__(self, pipeline: WorkerPipeline) -> None:
        self._pipeline = pipeline
        self._traffic = pipeline.traffic.copy()
        self._operations = pipeline.work.operations

    def report(
        self,
        shape: torch.Size,
        loss: float,
        gradient_norm: float,
        *,
        new_loss: float = math.nan,
        accepted: bool = True,
        tries: int = 0,
    ) -> StepReport:
        """The round's report. `shape` is that of the batch, whose forward and backward wave is the unit of work."""
        sent, work = self._pipeline.traffic, self._pipeline.work.operations - self._operations
        return StepReport(
            loss=loss,
            new_loss=new_loss,
            predicted_decrease=math.nan,
            reduction_ratio=math.nan,
            damping=math.nan,
            accepted=accepted,
            tries=tries,
            gradient_norm=gradient_norm,
            gradient_equivalents=work / self._pipeline.gradient_operations(shape),
            bytes_sent=sent.bytes - self._traffic.bytes,
            messages=sent.messages - self._traffic.messages,
            forward_waves=sent.forward_waves - self._traffic.forward_waves,
        )
