"""L-BFGS with a strong-Wolfe line search, for networks whose stages may lie on several workers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from surmin.errors import NonFiniteError
from surmin.methods.common.checks import check_has_value, check_inner_steps, check_positive
from surmin.methods.common.restoring import restored_on_failure
from surmin.methods.common.saved_states import check_keys
from surmin.methods.quasi_newton.flat import FlatParameters
from surmin.methods.quasi_newton.limited_memory import HISTORY, LimitedMemory, Projection
from surmin.methods.quasi_newton.wolfe import strong_wolfe
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport

SMALLEST_GRADIENT = 1e-7
SMALLEST_CHANGE = 1e-9
NUMBERS = 8 + 2 * HISTORY  # in every sum, even with fewer pairs: receives of one size are posted ahead


@dataclass(frozen=True)
class Point:
    """What one trip through the network finds; vectors are this worker's parts, numbers those of all workers.

    Attributes:
        loss: h; infinite if h, its gradient or a parameter is not finite.
        gradient: g, flat.
        squared_norm: ‖g‖².
        absolute_sum: ‖g‖₁.
        memory: all pairs up to here.
        projection: of g on the memory's vectors.
        length: of the step that led here, in multiples of the direction.
        slope: inner product of g with that direction.
        distance: Euclidean length of the step.
        wave: of this point, without the tapes, so that activations are not kept alive.
    """

    loss: float
    gradient: Tensor
    squared_norm: float
    absolute_sum: float
    memory: LimitedMemory
    projection: Projection
    length: float
    slope: float
    distance: float
    wave: Wave


class Lbfgs:
    """A round is `inner_steps` L-BFGS iterations on one batch.

    An evaluation is a forward wave, a backward wave and one all-reduce of 208 numbers, with all the inner products that
    an iteration with up to 100 remembered pairs needs. The evaluation that ends a round is the first of the next one
    if batch and parameters are the same tensors, unchanged. A pair always comes from one batch. A round ends early if
    the Euclidean norm of the gradient is below 1e-7, or the step, slope or change of the loss is below 1e-9.

    Args:
        pipeline: the network.
        lr: step length that each line search tries first.
        inner_steps: iterations per round.

    Raises:
        ValueError: if `lr` or `inner_steps` is not positive, or the loss has no values.
    """

    def __init__(self, pipeline: WorkerPipeline, *, lr: float = 1.0, inner_steps: int = 20) -> None:
        check_positive("lr", lr)
        check_inner_steps(inner_steps)
        check_has_value("lbfgs", pipeline.loss)
        self.pipeline = pipeline
        self.lr = lr
        self.inner_steps = inner_steps
        self._parameters = FlatParameters(pipeline.parameters)
        self._memory = LimitedMemory()
        self._last: Point | None = None

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One round on the batch; one that fails changes nothing.

        Raises:
            NonFiniteError: if loss, gradient or parameters are not finite at the start; nothing has changed then.
        """
        meter = StepMeter(self.pipeline)
        start = point = self._first_point(inputs, targets)
        waves = self.pipeline.traffic.forward_waves
        with restored_on_failure(self.pipeline.parameters):
            for _ in range(self.inner_steps):
                last, point = point, self._next_point(point, inputs, targets)
                if point is last or min(point.distance, abs(point.loss - last.loss)) < SMALLEST_CHANGE:
                    break
        self._last, self._memory = point, point.memory
        self.pipeline.accept(point.wave)
        return meter.report(
            point.wave.shape, start.loss, math.sqrt(start.squared_norm), new_loss=point.loss,
            accepted=point is not start, tries=self.pipeline.traffic.forward_waves - waves,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The pairs, oldest first, by parameter, and the inner products among them."""
        return {
            "steps": self._parameters.by_name(self._memory.steps),
            "changes": self._parameters.by_name(self._memory.changes),
            "mixed": self._memory.mixed.tolist(),
            "squared": self._memory.squared.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        check_keys(state, {"steps", "changes", "mixed", "squared"}, "L-BFGS")
        count = len(state["mixed"])
        device = self.pipeline.device
        steps, changes = (self._parameters.from_names(state[name], count, device) for name in ("steps", "changes"))
        mixed, squared = (
            torch.tensor(state[name], dtype=torch.float64).view(count, count) for name in ("mixed", "squared")
        )
        self._memory = LimitedMemory(steps, changes, mixed, squared)
        self._last = None

    def _first_point(self, inputs: Tensor, targets: Tensor) -> Point:
        last, self._last = self._last, None
        wave = self.pipeline.forward(inputs, targets, spent=None if last is None else last.wave)
        if last is not None and wave is last.wave:
            return last
        point = self._evaluate(wave)
        if math.isinf(point.loss):
            raise NonFiniteError("loss, gradient or parameters are not finite: L-BFGS has nowhere to start from")
        return point

    def _next_point(self, point: Point, inputs: Tensor, targets: Tensor) -> Point:
        """The point one iteration later, where it leaves the network; the same point if nothing better was found."""
        if point.squared_norm <= SMALLEST_GRADIENT**2:
            return point
        direction, slope = point.memory.direction(point.gradient, point.squared_norm, point.projection)
        if not slope <= -SMALLEST_CHANGE:
            return point
        origin = self._parameters.position(direction)

        def trial(length: float) -> Point:
            step = length * direction
            self._parameters.move_to(origin + step)
            return self._evaluate(self.pipeline.forward(inputs, targets), length, step, point)

        start = replace(point, length=0.0, slope=slope, distance=0.0)
        first = self.lr * (1.0 if point.memory.steps else min(1.0, 1 / point.absolute_sum))
        found = strong_wolfe(trial, start, first)
        self._parameters.move_to(origin + found.length * direction)
        return point if found is start else found

    def _evaluate(
        self, wave: Wave, length: float = 1.0, step: Tensor | None = None, last: Point | None = None
    ) -> Point:
        """The point of a wave, reached by `step` from the last one, or by none."""
        gradients = self.pipeline.backward(wave)
        flat = [own for stage in self.pipeline.stages for own in gradients[stage]]
        gradient = torch.cat(flat or [torch.zeros(0, device=self.pipeline.device)])
        step = torch.zeros_like(gradient) if step is None else step
        change = torch.zeros_like(gradient) if last is None else gradient - last.gradient
        pairs = self._memory if last is None else last.memory
        is_finite = self._parameters.position(gradient).isfinite().all()
        distance = torch.linalg.vector_norm(step, dtype=torch.float64)
        absolute_sum = torch.linalg.vector_norm(gradient, 1, dtype=torch.float64)
        own = torch.stack([wave.loss.where(is_finite, torch.inf), distance.square(), absolute_sum])
        shares = torch.cat([own, pairs.products(step, change, gradient)])
        numbers = self.pipeline.total(pad(shares, (0, NUMBERS - len(shares))))[: len(shares)]
        products = torch.tensor(numbers[3:], dtype=torch.float64)
        before = None if last is None else last.projection
        memory, projection = pairs.extended(step, change, products, before)
        return Point(
            loss=numbers[0] if all(map(math.isfinite, numbers)) else math.inf,
            gradient=gradient,
            squared_norm=float(products[-3]),
            absolute_sum=numbers[2],
            memory=memory,
            projection=projection,
            length=length,
            slope=float(products[len(pairs.steps)]) / length,
            distance=math.sqrt(numbers[1]),
            wave=replace(wave, tapes=[], gradients=gradients, cotangents={}),
        )
