"""A round's loss and gradient norm: what a worker knows by itself, or what all know after a sum."""

import math

import torch

from surmin.methods.common.gradients import Gradients, squared_norm
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport


def own_report(meter: StepMeter, pipeline: WorkerPipeline, wave: Wave, gradients: Gradients) -> StepReport:
    """The report of a round in which workers exchange no numbers.

    The loss is reported on the worker with the last stage and is NaN elsewhere; the norm is that of the worker's part.

    Args:
        meter: of the round.
        pipeline: the network.
        wave: at the parameters before the step.
        gradients: there.
    """
    loss = float(wave.loss) if pipeline.is_last else math.nan
    return meter.report(wave.shape, loss, math.sqrt(float(squared_norm(gradients))))


def total_loss_and_square(pipeline: WorkerPipeline, wave: Wave, gradients: Gradients) -> tuple[float, float]:
    """The loss at a wave and the squared norm of its gradient, by one sum over all workers."""
    loss, square = pipeline.total(torch.stack([wave.loss, squared_norm(gradients).to(wave.loss)]))
    return loss, square
