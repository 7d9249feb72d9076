"""Counting what a round costs, the same way for every method."""

import math

import torch

from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport


class StepMeter:
    """Counts what a pipeline does from here to `report`."""

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
        predicted_decrease: float = math.nan,
        reduction_ratio: float = math.nan,
        damping: float = math.nan,
        accepted: bool = True,
        tries: int = 0,
        note: str = "",
    ) -> StepReport:
        """The round's report; what a method does not know stays NaN.

        `shape` is that of the batch, whose forward and backward wave is the unit of work.
        """
        sent, work = self._pipeline.traffic, self._pipeline.work.operations - self._operations
        return StepReport(
            loss=loss,
            new_loss=new_loss,
            predicted_decrease=predicted_decrease,
            reduction_ratio=reduction_ratio,
            damping=damping,
            accepted=accepted,
            tries=tries,
            gradient_norm=gradient_norm,
            gradient_equivalents=work / self._pipeline.gradient_operations(shape),
            bytes_sent=sent.bytes - self._traffic.bytes,
            messages=sent.messages - self._traffic.messages,
            forward_waves=sent.forward_waves - self._traffic.forward_waves,
            note=note,
        )
