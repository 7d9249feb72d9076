"""Newton's method with a dense Hessian, for tiny networks: a reference for approximations."""

import math

import torch
from torch import Tensor

from surmin.methods.base import Stateless
from surmin.methods.blocks.block_vectors import BlockVectors, to_blocks
from surmin.methods.blocks.joint_search import search_jointly
from surmin.methods.common.checks import check_has_value, check_not_negative
from surmin.methods.hessian.columns import JointColumns
from surmin.methods.hessian.wave import HessianAtPoint, NetworkHessian
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.stages.block import Block, moved_parameters

MOST_PARAMETERS = 2000
COLUMNS = 64
"""Directions that go through the network at once."""


class Newton(Stateless):
    """θ ← θ - α (H + λI)⁻¹ ∇h with the whole Hessian H = ∇²h, exact and dense.

    Rows of H are products with unit vectors, 64 of them in a wave of tangents. One sum gives every worker all of H, and
    each solves the same system, by eigenvalues: those below rounding errors are left out, so that the step is the
    shortest one if H is singular, as it always is with softmax. `safeguard` is

    - "none": plain Newton, α = 1 and no test. It goes to the nearest stationary point, usually a saddle;
    - "armijo": |H| + λI instead of H + λI, eigenvalues with their absolute values (Dauphin et al. 2014), so that the
      step leads down, and Armijo's line search for α = 1, ½, ¼, … A failed search changes nothing.

    Source: Section 2 of the Surrogate Minimization paper mentions it as unaffordable.

    Args:
        pipeline: the network, of at most 2,000 parameters in all.
        damping: λ.
        safeguard: one of the two.

    Raises:
        ValueError: on all workers, if the network is larger, values are out of range, or the loss has no values and
            safeguard is "armijo".
    """

    def __init__(self, pipeline: WorkerPipeline, *, damping: float = 1e-3, safeguard: str = "armijo") -> None:
        if safeguard not in ("none", "armijo"):
            raise ValueError(f"safeguard must be none or armijo, got {safeguard!r}")
        check_not_negative("damping", damping)
        if safeguard == "armijo":
            check_has_value("newton with safeguard armijo", pipeline.loss, "safeguard none")
        self.pipeline = pipeline
        self.damping = damping
        self.safeguard = safeguard
        self.blocks, count = pipeline.cut("layer")
        self._rows = self._own_rows(count)
        self._hessian = NetworkHessian(pipeline, JointColumns())

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One round: the Hessian, and the step."""
        meter = StepMeter(self.pipeline)
        wave = self.pipeline.forward(inputs, targets, self._hessian.boundaries)
        gradients = to_blocks(self.blocks, self.pipeline.backward(wave, self._hessian.boundaries))
        loss, gradient, hessian = self._everywhere(wave.loss, gradients, self._hessian.at(wave, inputs, targets))
        with self.pipeline.tracer.span("U"), self.pipeline.work.phase(("eigenvalues", self._count)):
            whole = self._solve(hessian, gradient)
        steps = {block: whole[rows].to(gradients[block]) for block, rows in self._rows.items()}
        if self.safeguard == "armijo":
            batch = inputs, targets
            return search_jointly(self.pipeline, wave, batch, gradients, steps).report(meter, wave)
        self.pipeline.move_to(moved_parameters(self.pipeline.stages, steps.items()))
        return meter.report(wave.shape, loss, float(gradient.norm()))

    def _own_rows(self, count: int) -> dict[Block, slice]:
        """Where the blocks here lie among all parameters, which all workers count, and how these are rounded."""
        own = {block.index: block for stage in self.blocks for block in stage if block.size}
        shares = [float(own[index].size) if index in own else 0.0 for index in range(count)]
        errors = [value.numel() * torch.finfo(value.dtype).eps for value in self.pipeline.parameters.values()]
        *found, error = self.pipeline.total(torch.tensor([*shares, sum(errors)], dtype=torch.float64))
        sizes = [round(size) for size in found]
        self._count = sum(sizes)
        self._rounding = error / max(1, self._count)
        if self._count > MOST_PARAMETERS:
            raise ValueError(
                f"newton needs a network of at most {MOST_PARAMETERS} parameters for its dense Hessian, "
                f"this one has {self._count}: use fewer or narrower layers, or cgblock or cgblock-ggn"
            )
        starts = [sum(sizes[:index]) for index in range(count)]
        return {block: slice(starts[index], starts[index] + sizes[index]) for index, block in own.items()}

    @torch.no_grad()
    def _everywhere(
        self, loss: Tensor, gradients: BlockVectors, hessian: HessianAtPoint
    ) -> tuple[float, Tensor, Tensor]:
        """h, ∇h and ∇²h of the whole network in float64, the same on all workers."""
        own_gradient = torch.zeros(self._count, dtype=torch.float64)
        own_hessian = torch.zeros(self._count, self._count, dtype=torch.float64)
        columns = min(COLUMNS, self._count)
        for start in range(0, self._count, columns):
            products = hessian.products(self._unit_vectors(start, columns, gradients))
            stop = min(start + columns, self._count)
            for block, rows in self._rows.items():
                columns_here = products[block.first_trainable_layer.name][: stop - start]
                own_hessian[start:stop, rows] = columns_here.to(own_hessian)
        for block, rows in self._rows.items():
            own_gradient[rows] = gradients[block].to(own_gradient)
        shares = torch.cat([loss.to(own_gradient).view(1), own_gradient, own_hessian.flatten()])
        summed = torch.tensor(self.pipeline.total(shares), dtype=torch.float64)
        gradient, square = summed[1 : 1 + self._count], summed[1 + self._count :].view_as(own_hessian)
        return float(summed[0]), gradient, (square + square.T) / 2

    def _unit_vectors(self, start: int, columns: int, like: BlockVectors) -> dict[str, Tensor]:
        """The parts here of `columns` unit vectors, the first one numbered `start`; zeros beyond the last."""
        numbers = torch.arange(start, start + columns).unsqueeze(1)
        return {
            block.first_trainable_layer.name: (numbers == torch.arange(rows.start, rows.stop)).to(like[block])
            for block, rows in self._rows.items()
        }

    def _solve(self, hessian: Tensor, gradient: Tensor) -> Tensor:
        """The step for α = 1; not finite if the Hessian is not.

        Eigenvalues move by up to √P times the errors of its entries.
        """
        if not hessian.isfinite().all():
            return torch.full_like(gradient, math.nan)
        values, vectors = torch.linalg.eigh(hessian)
        damped = (values.abs() if self.safeguard == "armijo" else values) + self.damping
        counts = damped.abs() > len(values) ** 0.5 * self._rounding * damped.abs().max()
        return -vectors @ torch.where(counts, (vectors.T @ gradient) / damped, 0.0)
