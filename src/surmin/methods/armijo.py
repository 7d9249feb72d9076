"""Gradient descent with Armijo's backtracking line search on the loss itself."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surmin.methods.base import StepMeter
from surmin.methods.gradients import Gradients, by_name, squared_norm
from surmin.pipeline.wave import StageParameters
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.stages.layer import Layer

SUFFICIENT = 1e-4
MAX_TRIES = 40


class ArmijoDescent:
    """θ ← θ - α ∇h with the first of α, α/2, α/4, … that satisfies h(θ - α∇h) ≤ h - 10⁻⁴ α ‖∇h‖².

    Every trial is a forward wave and an all-reduce of its loss. The accepted trial serves as the next round's first
    wave where the batch is the same. The next search starts from twice the accepted α.

    Args:
        pipeline: the network.
        lr: the very first α tried.
    """

    def __init__(self, pipeline: WorkerPipeline, *, lr: float = 1.0) -> None:
        self.pipeline = pipeline
        self.length = lr

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One line search; when no trial is good enough the parameters stay as they are."""
        meter = StepMeter(self.pipeline)
        wave = self.pipeline.forward(inputs, targets)
        gradients = self.pipeline.backward(wave)
        loss, squared = self.pipeline.total(torch.stack([wave.loss, squared_norm(gradients)]))
        accepted, tries = False, 0
        while not accepted and tries < MAX_TRIES:
            moved = self._moved(gradients)
            (trial,) = self.pipeline.forward_candidates(inputs, targets, [moved])
            (new_loss,) = self.pipeline.total(trial.loss.reshape(1))
            accepted = new_loss <= loss - SUFFICIENT * self.length * squared
            tries += 1
            if accepted:
                self.pipeline.move_to(moved)
                self.pipeline.accept(trial, inputs, targets)
            self.length *= 2 if accepted else 0.5
        norm = math.sqrt(squared)
        return meter.report(wave.shape, loss, norm, new_loss=new_loss, accepted=accepted, tries=tries)

    def state_dict(self) -> dict[str, Any]:
        """The next α to try."""
        return {"length": self.length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        if set(state) != {"length"}:
            raise ValueError(f"not the state of a line search: {sorted(state)}")
        self.length = float(state["length"])

    def _moved(self, gradients: Gradients) -> StageParameters:
        return {
            stage: [self._moved_layer(layer, flat) for layer, flat in zip(stage.layers, own, strict=True)]
            for stage, own in gradients.items()
        }

    def _moved_layer(self, layer: Layer, gradient: Tensor) -> dict[str, Tensor]:
        return {
            name: (layer.parameters[name].detach() - self.length * piece).requires_grad_()
            for name, piece in by_name(layer, gradient).items()
        }
