"""Methods that take one step along each gradient: gradient descent, SGD with momentum, Adam."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from surmin.methods.common.loss_and_norm import own_report
from surmin.methods.common.optimizers import load_optimizer_state, make_optimizer, optimizer_state, step_along
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport


class FirstOrder:
    """One forward wave, one backward wave, one step of a torch optimizer.

    Apart from that, workers only compare their batches; each reports what it knows (`own_report`).
    """

    def __init__(self, pipeline: WorkerPipeline, optimizer: Optimizer) -> None:
        self.pipeline = pipeline
        self.optimizer = optimizer

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One gradient step on the batch."""
        meter = StepMeter(self.pipeline)
        wave = self.pipeline.forward(inputs, targets)
        gradients = self.pipeline.backward(wave)
        with self.pipeline.tracer.span("U"):
            step_along(self.optimizer, gradients)
        return own_report(meter, self.pipeline, wave, gradients)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's kind, and by parameter its memory and settings."""
        return optimizer_state(self.optimizer, self.pipeline.parameters)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        load_optimizer_state(self.optimizer, self.pipeline.parameters, state)


def gradient_descent(pipeline: WorkerPipeline, *, lr: float = 0.1) -> FirstOrder:
    """θ ← θ - lr ∇h.

    Source: Cauchy (1847); "GD with a constant step-size" of Section 4 of the Surrogate Minimization paper.
    """
    return FirstOrder(pipeline, make_optimizer(pipeline.parameters.values(), "gd", lr))


def sgd(pipeline: WorkerPipeline, *, lr: float = 0.05) -> FirstOrder:
    """Gradient descent with momentum 0.9.

    Source: Polyak, "Some methods of speeding up the convergence of iteration methods" (1964).
    """
    return FirstOrder(pipeline, make_optimizer(pipeline.parameters.values(), "sgd", lr))


def adam(pipeline: WorkerPipeline, *, lr: float = 3e-3) -> FirstOrder:
    """Adam with torch's defaults.

    Source: Kingma and Ba, "Adam: a method for stochastic optimization" (2015).
    """
    return FirstOrder(pipeline, make_optimizer(pipeline.parameters.values(), "adam", lr))
