"""Block-diagonal Hessian-free optimization: conjugate gradient on every layer's block of the Gauss-Newton matrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surmin.acceptance.damping import adapted, reduction_ratio
from surmin.curvature.factor import FactorCurvature
from surmin.methods.blocks.block_vectors import own_values
from surmin.methods.blocks.joint_search import JointSearch, search_jointly
from surmin.methods.common.checks import check_columns, check_has_value, check_inner_steps, check_positive
from surmin.methods.common.saved_states import check_keys, check_progress, check_seed
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.wave import BlockExpansion
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.seeds import draw_seed
from surmin.solvers.conjugate_gradient import ConjugateGradient
from surmin.stages.block import named_steps
from surmin.surrogates.local_loss import LocalLoss

DECAY = 0.95
RAISE, LOWER = 1.5, 2 / 3


@dataclass(frozen=True)
class _Solution:
    """A block's step d, and ⟨g, d⟩ + ½ dᵀ G d."""

    step: Tensor
    model: Tensor


class CgBlockGaussNewton:
    """θ_i ← θ_i + α d_i, where d_i are N steps of conjugate gradient on ⟨g_i, d⟩ + ½ dᵀ (G_i + λI) d.

    G_i = (1/n) Σ_j J_iᵀ ∇²ℓ_j J_i is layer i's diagonal block of the Gauss-Newton matrix of the network's loss, J_i the
    Jacobian of the output in θ_i. With ∇²ℓ = S Sᵀ its columns J_iᵀ S are what SM's curvature wave with the exact factor
    leaves in every block, so one wave per round is enough, and each block takes its conjugate-gradient steps by itself.
    With κ = 1 instead of m, SM's local loss is this one; couplings between blocks are left out and nothing is bounded.

    As in Hessian-free optimization (Martens 2010): conjugate gradient starts from 0.95 times the last step; Armijo's
    line search on the true loss finds one α for all blocks; and λ follows Levenberg and Marquardt: with the ratio of
    the actual decrease to the predicted one, -Σ_i (α ⟨g_i, d_i⟩ + ½ α² d_iᵀ G_i d_i), λ ← 3/2 λ below ¼ and 2/3 λ above
    ¾. (Taken at α = 1 instead, the ratio is always poor in deep networks, where the blocks' steps overshoot together,
    and λ grows without end.) A failed search changes no parameters.

    Source: Zhang, Xiong, Bradbury and Socher, "Block-diagonal Hessian-free optimization for training neural networks"
    (2017). They compute products by two passes through the whole network for every step of conjugate gradient.

    Args:
        pipeline: the network.
        inner_steps: N.
        damping: λ of the first round.
        rank: random columns per sample instead of the exact factor.
        curvature_fraction: fraction of the batch that carries the curvature, their curvature mini-batch.
        seed: of the random draws for rank and fraction.

    Raises:
        ValueError: if values are out of range, or the loss has no values.
    """

    def __init__(
        self, pipeline: WorkerPipeline, *, inner_steps: int = 10, damping: float = 1e-3, rank: int | None = None,
        curvature_fraction: float = 0.25, seed: int = 0,
    ) -> None:  # fmt: skip
        check_inner_steps(inner_steps)
        check_positive("damping", damping)
        check_columns(rank, curvature_fraction)
        check_has_value("cgblock-ggn", pipeline.loss)
        self.pipeline = pipeline
        self.inner_steps = inner_steps
        self.damping = damping
        self.seed = seed
        self.blocks, _ = pipeline.cut("layer")
        self._curvature = FactorCurvature(rank, curvature_fraction)
        self._previous: dict[str, Tensor] = {}
        self._round = 0

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One round: gradient and curvature wave, conjugate gradient in every block, line search."""
        meter = StepMeter(self.pipeline)
        wave = self.pipeline.forward(inputs, targets, {}, self._curvature)
        by_layer = self.pipeline.backward(wave, {})
        seed = draw_seed(self.seed, self._round)
        expansions = self.pipeline.curvature(wave, by_layer, self.blocks, self._curvature, seed)
        with self.pipeline.tracer.span("U"):
            solutions = [self._solve(own) for own in expansions]
        steps = {own.block: solution.step for own, solution in zip(expansions, solutions, strict=True)}
        gradients = {own.block: own.gradient for own in expansions}
        model = sum((solution.model.double() for solution in solutions), torch.zeros_like(wave.loss))
        batch = inputs, targets
        found = search_jointly(self.pipeline, wave, batch, gradients, steps, [model])
        self._round += 1
        self._previous = named_steps(steps.items())
        predicted, ratio = _tested(found)
        used, self.damping = self.damping, adapted(self.damping, ratio, LOWER, RAISE)
        return found.report(meter, wave, predicted_decrease=predicted, reduction_ratio=ratio, damping=used)

    def state_dict(self) -> dict[str, Any]:
        """λ, the round, the seed, and the last step by parameter."""
        state = {"round": self._round, "damping": self.damping, "seed": self.seed}
        return {**state, "previous_step": dict(self._previous)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        check_keys(state, {"round", "damping", "previous_step", "seed"}, "cgblock-ggn")
        check_seed(state["seed"], self.seed)
        check_progress(state)
        previous = own_values(state["previous_step"], self.pipeline) if state["round"] else {}
        self._round, self.damping, self._previous = int(state["round"]), float(state["damping"]), previous

    @torch.no_grad()
    def _solve(self, expansion: BlockExpansion) -> _Solution:
        """Conjugate gradient from d₀: minimising over d - d₀ has the gradient g + (G + λI) d₀."""
        block, replicas = expansion.block, self.pipeline.replicas
        product = expansion.products(self.pipeline.work)
        start = torch.zeros_like(expansion.gradient)
        image = start
        if self._previous:
            start = DECAY * block.flatten(self._previous)
            image = replicas.mean(product(start))
        loss = LocalLoss(
            expansion.gradient + image + self.damping * start, lambda v: replicas.mean(product(v)), damping=self.damping
        )
        found = ConjugateGradient(self.inner_steps).solve(loss)
        model = expansion.gradient.dot(start) + 0.5 * start.dot(image) - found.decrease
        return _Solution(start + found.step, model - self.damping * start.dot(found.step))


def _tested(found: JointSearch) -> tuple[float, float]:
    """The decrease that the model predicted for the step taken, and the ratio of the actual one to it."""
    alpha, (model,) = found.search.length, found.others
    predicted = -alpha * (found.slope + alpha * (model - found.slope))
    return predicted, reduction_ratio(found.loss, found.search.value, predicted) if alpha else 0.0
