"""SSO: many steps on a surrogate of the loss in the network's outputs, for one gradient of the loss in them.

Legend: θ the parameters, z(θ) the network's outputs, z̄ those at the round's start, ℓ the loss of one sample's output, L
its smoothness, n the number of samples, η the step size in the outputs, Ψ the surrogate, α the length of a step on it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from surmin.methods.base import Stateless
from surmin.methods.common.armijo_search import ArmijoSearch, moved_against
from surmin.methods.common.checks import check_inner_steps, check_positive
from surmin.methods.common.gradients import Gradients, squared_norm
from surmin.methods.common.loss_and_norm import total_loss_and_square
from surmin.methods.common.optimizers import make_optimizer, step_along
from surmin.methods.common.restoring import restored_on_failure
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport

SMALLEST_GRADIENT = 1e-6
DEFAULT_INNER_LR = {"armijo": 1.0, "gd": 0.1, "adam": 1e-3}


class Sso(Stateless):
    """A round takes N steps down Ψ(θ) = (1/n) Σ_j ⟨∇ℓ_j(z̄_j), Δ_j⟩ + (1/2η) ‖Δ_j‖², with Δ = z(θ) - z̄.

    The loss's gradient is evaluated once a round, at z̄; with η ≤ 1/L the surrogate lies above it, so lowering the one
    lowers the other. Every inner step is a trip through the whole network: a gradient wave of Ψ and a forward wave
    (with a line search, one per trial, and an all-reduce). The first gradient of Ψ is that of the loss itself, and the
    wave that ends a line search is the next round's first if the batch is the same.

    Source: Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, "Target-based surrogates for stochastic optimization",
    ICML 2023; with mini-batches its Algorithm 2 with a constant η. As in the authors' code, the inner step size starts
    anew every round, and with the line search a round ends when the gradient of Ψ is below 1e-6. Their line search
    requires half or a tenth of the decrease that the slope predicts and shrinks by 0.9; here that of `gd-armijo` (10⁻⁴,
    halving) is used.

    Args:
        pipeline: the network.
        lr: η, in units of one sample's loss; 1/L if not given.
        inner_steps: N.
        inner_optimizer: "armijo" (gradient descent with a line search), "gd" (with a fixed step) or "adam".
        inner_lr: first α that a round tries, or the inner optimizer's learning rate; 1, 0.1 or 0.001 if not given.

    Raises:
        ValueError: if a value is not possible.
    """

    def __init__(
        self, pipeline: WorkerPipeline, *, lr: float | None = None, inner_steps: int = 10,
        inner_optimizer: Literal["armijo", "gd", "adam"] = "armijo", inner_lr: float | None = None,
    ) -> None:  # fmt: skip
        if inner_optimizer not in DEFAULT_INNER_LR:
            raise ValueError(f"inner_optimizer must be one of {', '.join(DEFAULT_INNER_LR)}, got {inner_optimizer!r}")
        inner_lr = DEFAULT_INNER_LR[inner_optimizer] if inner_lr is None else inner_lr
        if lr is not None:
            check_positive("lr", lr)
        check_positive("inner_lr", inner_lr)
        check_inner_steps(inner_steps)
        self.pipeline = pipeline
        self.lr = lr
        self._inner: _Inner
        if inner_optimizer == "armijo":
            self._inner = _LineSearches(pipeline, inner_steps, inner_lr)
        else:
            self._inner = _OptimizerSteps(pipeline, inner_steps, inner_optimizer, inner_lr)

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One surrogate and its inner steps; a line search that finds nothing ends the round and moves nothing."""
        meter = StepMeter(self.pipeline)
        wave = self.pipeline.forward(inputs, targets)
        surrogate = TargetSurrogate.at(self.pipeline, wave, self.lr)
        gradients = self.pipeline.backward(wave)
        loss, squared = total_loss_and_square(self.pipeline, wave, gradients)
        with restored_on_failure(self.pipeline.parameters):
            done = self._inner.minimise(surrogate, gradients, squared, inputs, targets)
        if done.wave is not None:
            self.pipeline.accept(done.wave)
        return meter.report(wave.shape, loss, math.sqrt(squared), accepted=done.steps > 0, tries=done.tries)


@dataclass(frozen=True)
class TargetSurrogate:
    """Ψ, on the worker with the network's last stage; empty elsewhere.

    Attributes:
        outputs: z̄, by micro-batch.
        gradients: of the mean loss there, by micro-batch: ∇ℓ_j(z̄_j) / n.
        curvature: 1/(ηn).
    """

    outputs: Sequence[Tensor]
    gradients: Sequence[Tensor]
    curvature: float

    @classmethod
    @torch.no_grad()
    def at(cls, pipeline: WorkerPipeline, wave: Wave, lr: float | None) -> "TargetSurrogate":
        """Ψ of the loss at a wave's outputs, with η = `lr`, or 1/L."""
        if not pipeline.is_last:
            return cls((), (), 0.0)
        smoothness = pipeline.loss.smoothness(wave.outputs[0]) if lr is None else 1 / lr
        gradients = [pipeline.top_cotangent(wave, number) for number in range(len(wave.targets))]
        return cls([output.clone() for output in wave.outputs], gradients, smoothness / wave.shape[0])

    def value(self, wave: Wave) -> Tensor:
        """Ψ after a forward wave, summed in float64; 0 if it is empty."""
        value = torch.zeros((), dtype=torch.float64, device=wave.targets[0].device)
        for number, gradient in enumerate(self.gradients):
            change = (wave.outputs[number] - self.outputs[number]).double()
            value += (gradient * change).sum() + 0.5 * self.curvature * change.square().sum()
        return value

    def gradient(self, wave: Wave) -> Callable[[int], Tensor]:
        """∇Ψ in the outputs of a forward wave, by micro-batch."""
        return lambda number: self.gradients[number] + self.curvature * (wave.outputs[number] - self.outputs[number])


class _Done(NamedTuple):
    """Inner steps done; the wave at the parameters now, if it was not used; forward waves of line searches."""

    steps: int
    wave: Wave | None
    tries: int


class _Inner(Protocol):
    """What minimises a surrogate from z̄, given its gradient and the gradient's squared norm."""

    def minimise(
        self, surrogate: TargetSurrogate, gradients: Gradients, squared: float, inputs: Tensor, targets: Tensor
    ) -> _Done: ...


@dataclass(frozen=True)
class _LineSearches:
    """Gradient descent with Armijo's line search; each starts from twice the last length, the first from `length`."""

    pipeline: WorkerPipeline
    steps: int
    length: float

    def minimise(
        self, surrogate: TargetSurrogate, gradients: Gradients, squared: float, inputs: Tensor, targets: Tensor
    ) -> _Done:
        search = ArmijoSearch(self.pipeline, self.length)
        wave, value, tries = None, 0.0, 0
        for step in range(self.steps):
            if wave is not None:
                gradients = self.pipeline.backward(wave, top=surrogate.gradient(wave))
                (squared,) = self.pipeline.total(squared_norm(gradients).reshape(1))
                wave = None
            if not squared > SMALLEST_GRADIENT**2:
                return _Done(step, None, tries)
            moved = partial(moved_against, gradients)
            wave, value, spent, _ = search.descend(inputs, targets, moved, squared, value, surrogate.value)
            tries += spent
            if wave is None:
                return _Done(step, None, tries)
        return _Done(self.steps, wave, tries)


@dataclass(frozen=True)
class _OptimizerSteps:
    """Steps of a torch optimizer, a new one for every surrogate."""

    pipeline: WorkerPipeline
    steps: int
    optimizer: str
    lr: float

    def minimise(
        self, surrogate: TargetSurrogate, gradients: Gradients, squared: float, inputs: Tensor, targets: Tensor
    ) -> _Done:
        optimizer = make_optimizer(self.pipeline.parameters.values(), self.optimizer, self.lr)
        for step in range(self.steps):
            if step:
                here = {stage: stage.parameters for stage in self.pipeline.stages}
                (wave,) = self.pipeline.forward_candidates(inputs, targets, [here])
                gradients = self.pipeline.backward(wave, top=surrogate.gradient(wave))
            with self.pipeline.tracer.span("U"):
                step_along(optimizer, gradients)
        return _Done(self.steps, None, 0)
