"""Block-diagonal Newton ("CGBlock", a baseline of the paper): conjugate gradient on the global Hessian."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from surmin.methods.base import Stateless
from surmin.methods.blocks.block_vectors import BlockVectors, to_blocks
from surmin.methods.blocks.joint_search import search_jointly
from surmin.methods.common.checks import check_has_value, check_inner_steps, check_positive
from surmin.methods.common.loss_and_norm import own_report
from surmin.methods.hessian.columns import BlockColumns
from surmin.methods.hessian.lockstep_cg import GuardedConjugateGradient, LockstepConjugateGradient
from surmin.methods.hessian.wave import HessianAtPoint, NetworkHessian
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.stages.block import Block, moved_parameters

SOLVERS: Mapping[str, Callable[[Tensor], LockstepConjugateGradient]] = {
    "none": LockstepConjugateGradient,
    "damping": LockstepConjugateGradient,
    "armijo": GuardedConjugateGradient,
}
DAMPING = 1.0


class CgBlock(Stateless):
    """θ_i ← θ_i + α d_i, where d_i are N steps of conjugate gradient on ½ dᵀ (H_ii + λI) d + ⟨∂h/∂θ_i, d⟩.

    H_ii = ∂²h/∂θ_i² is the diagonal block of the Hessian of the network's loss for layer i; blocks are layers with
    weights. Unlike SM's local losses it needs the whole network for every product: all blocks take their steps in
    lockstep, and a step is a wave of tangents up and one of their answers down (`methods/hessian/`). Below block i
    its column is not needed, so a message after block i holds i activations' worth of numbers.

    Source: "CGBlock" of Section 4 of the Surrogate Minimization paper, which uses finite differences (Martens 2010)
    for the products; these are exact. It mentions no safeguard, but poor results due to negative curvature. So
    `safeguard` is

    - "none", as there: plain conjugate gradient, λ = 0, no test, α = 1. It diverges where H_ii is indefinite;
    - "damping": the same with λ > 0, which slows it down;
    - "armijo": a block stops at negative curvature, with its gradient's direction if that comes at once, and Armijo's
      line search on the true loss finds one α for all blocks: α = 1, ½, ¼, … A failed search changes nothing.

    Args:
        pipeline: the network.
        inner_steps: N.
        damping: λ of safeguard "damping" (1 if not given); the others have none.
        safeguard: one of the three.

    Raises:
        ValueError: if values are out of range or do not go together, or the loss has no values and safeguard is
            "armijo".
    """

    def __init__(
        self, pipeline: WorkerPipeline, *, inner_steps: int = 10, damping: float | None = None,
        safeguard: str = "armijo",
    ) -> None:  # fmt: skip
        if safeguard not in SOLVERS:
            raise ValueError(f"safeguard must be one of {', '.join(SOLVERS)}, got {safeguard!r}")
        check_inner_steps(inner_steps)
        if damping is not None and safeguard != "damping":
            raise ValueError(f"damping is λ of safeguard 'damping', it has no place in safeguard {safeguard!r}")
        check_positive("damping", DAMPING if damping is None else damping)
        if safeguard == "armijo":
            check_has_value("cgblock with safeguard armijo", pipeline.loss, "safeguard damping or none")
        self.pipeline = pipeline
        self.inner_steps = inner_steps
        self.safeguard = safeguard
        self.damping = (DAMPING if damping is None else damping) if safeguard == "damping" else 0.0
        self.blocks, _ = pipeline.cut("layer")
        self._hessian = NetworkHessian(pipeline, BlockColumns())

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One round: gradient, N products, and the step.

        Without a line search workers exchange no numbers; each reports what it knows (`own_report`).
        """
        meter = StepMeter(self.pipeline)
        wave = self.pipeline.forward(inputs, targets, self._hessian.boundaries)
        by_layer = self.pipeline.backward(wave, self._hessian.boundaries)
        gradients = to_blocks(self.blocks, by_layer)
        steps = self._solve(gradients, self._hessian.at(wave, inputs, targets))
        if self.safeguard == "armijo":
            batch = inputs, targets
            return search_jointly(self.pipeline, wave, batch, gradients, steps).report(meter, wave)
        with self.pipeline.tracer.span("U"):
            self.pipeline.move_to(moved_parameters(self.pipeline.stages, steps.items()))
        return own_report(meter, self.pipeline, wave, by_layer)

    @torch.no_grad()
    def _solve(self, gradients: BlockVectors, hessian: HessianAtPoint) -> dict[Block, Tensor]:
        """N steps of conjugate gradient, all blocks together."""
        runs = {block: SOLVERS[self.safeguard](gradient) for block, gradient in gradients.items()}
        for _ in range(self.inner_steps):
            directions = {block.first_trainable_layer.name: run.direction.unsqueeze(0) for block, run in runs.items()}
            images = hessian.products(directions)
            for block, run in runs.items():
                run.advance(images[block.first_trainable_layer.name].squeeze(0) + self.damping * run.direction)
        return {block: run.step for block, run in runs.items()}
