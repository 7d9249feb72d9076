"""K-FAC: natural gradient with a Kronecker-factored Fisher matrix."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surmin.acceptance.damping import adapted, reduction_ratio
from surmin.curvature.factor import FactorCurvature
from surmin.curvature.input_moment import InputMomentCache
from surmin.curvature.moments import KroneckerMoments
from surmin.errors import NonFiniteError
from surmin.methods.blocks.block_vectors import Blocks, BlockVectors, own_values
from surmin.methods.blocks.quadratic_model import combine
from surmin.methods.common.checks import check_columns, check_has_value, check_positive
from surmin.methods.common.saved_states import check_keys, check_progress, check_seed
from surmin.methods.hessian.columns import JointColumns
from surmin.methods.hessian.wave import NetworkHessian
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.wave import BlockExpansion
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.seeds import draw_seed
from surmin.solvers.kronecker import KroneckerPreconditioner
from surmin.stages.block import Block, moved_parameters, named_steps
from surmin.stages.closed_form import is_plain_convolution, is_plain_linear

LONGEST_MEMORY = 0.95
LOWER = 19 / 20


class Kfac:
    """δ = α Δ + μ δ₀ with Δ_i = -(A_i + π_i √λ I)⁻¹ ⊗ (G_i + √λ/π_i I)⁻¹ g_i for every layer i, δ₀ the last step.

    A_i is the mean outer product of the layer's inputs (1 appended for the bias), G_i that of the loss's curvature
    columns at its output, which SM's curvature wave brings: with the exact factor G_i is the expectation over labels
    that the model predicts, with a rank a sample of it. Both are exponential averages over rounds k, with weight
    min(1 - 1/k, 0.95) on the past; π_i² = (tr A_i / dim A_i) / (tr G_i / dim G_i).

    α and μ minimise q(δ) = ⟨g, δ⟩ + ½ δᵀ (F + λI) δ with the full exact F, not its Kronecker approximation: a wave of
    two tangents goes up, the last stage multiplies them by ∇²ℓ, and one sum over workers tells all. λ follows
    Levenberg and Marquardt: with the ratio of (h(θ + δ) - h(θ)) to q(δ), λ ← 19/20 λ above ¾ and 20/19 λ below ¼.
    No step is refused unless the loss after it is not finite, which is an error.

    Source: Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature" (2015);
    convolutions by Grosse and Martens (2016). There is no weight decay (η = 0) and γ = √λ; they adapt γ separately
    every 20 rounds and λ every fifth, by the fifth power, and invert every 20 rounds: here all is done every round.

    Args:
        pipeline: the network; its layers with weights must be linear or plain convolutions.
        damping: λ of the first round.
        rank: random columns per sample instead of the exact factor.
        curvature_fraction: fraction of the batch for A and G.
        seed: of the random draws for rank and fraction.

    Raises:
        ValueError: on all workers, if a layer with weights is of another kind, values are out of range, or the loss has
            no values, which the rule for λ needs.
    """

    def __init__(
        self, pipeline: WorkerPipeline, *, damping: float = 0.1, rank: int | None = None,
        curvature_fraction: float = 1.0, seed: int = 0,
    ) -> None:  # fmt: skip
        check_positive("damping", damping)
        check_columns(rank, curvature_fraction)
        check_has_value("kfac", pipeline.loss)
        self.pipeline = pipeline
        self.damping = damping
        self.seed = seed
        self.blocks, _ = pipeline.cut("layer")
        self._hessian = NetworkHessian(pipeline, JointColumns())
        with pipeline.agreeing():
            _check_layers(self.blocks)
        self._curvature = FactorCurvature(rank, curvature_fraction)
        self._first_moment = InputMomentCache(pipeline.replicas)
        self._moments: dict[Block, KroneckerMoments] = {}
        self._previous: BlockVectors = {}
        self._round = 0

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One round: gradient and curvature wave, the tangents of Δ and δ₀, the step, and the loss after it."""
        meter = StepMeter(self.pipeline)
        wave = self.pipeline.forward(inputs, targets, self._hessian.boundaries, self._curvature)
        by_layer = self.pipeline.backward(wave, self._hessian.boundaries)
        seed = draw_seed(self.seed, self._round)
        expansions = self.pipeline.curvature(wave, by_layer, self.blocks, self._curvature, seed)
        gradients = {own.block: own.gradient for own in expansions}
        with self.pipeline.tracer.span("U"), torch.no_grad():
            moments = {own.block: self._averaged(own) for own in expansions}
            newest = {block: -self._precondition(moments, block, own) for block, own in gradients.items()}
        last = self._previous or {block: torch.zeros_like(step) for block, step in newest.items()}
        hessian = self._hessian.at(wave, inputs, targets)
        best = combine(self.pipeline, wave, hessian, gradients, (newest, last), self.damping)
        there = moved_parameters(self.pipeline.stages, best.step.items())
        (trial,) = self.pipeline.forward_candidates(inputs, targets, [there])
        (new_loss,) = self.pipeline.total(trial.loss.reshape(1))
        if not (math.isfinite(best.decrease) and math.isfinite(new_loss)):
            raise NonFiniteError(f"kfac's step is refused: it leads from a loss of {best.loss} to one of {new_loss}")
        self.pipeline.move_to(there)
        self.pipeline.accept(trial)
        self._round, self._moments, self._previous = self._round + 1, moments, best.step
        ratio, used = reduction_ratio(best.loss, new_loss, best.decrease), self.damping
        self.damping = adapted(self.damping, ratio, LOWER, 1 / LOWER)
        return meter.report(
            wave.shape, best.loss, math.sqrt(best.square), new_loss=new_loss, predicted_decrease=best.decrease,
            reduction_ratio=ratio, damping=used, tries=1,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """λ, the round, the seed, the last step by parameter, and both moments by their layer's weight."""
        moments = {
            f"{block.first_trainable_layer.name}.weight": {"inputs": own.inputs, "outputs": own.outputs}
            for block, own in self._moments.items()
        }
        return {
            "round": self._round,
            "damping": self.damping,
            "seed": self.seed,
            "previous_step": named_steps(self._previous.items()),
            "moments": moments,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; what belongs to other workers' layers is ignored."""
        check_keys(state, {"round", "damping", "previous_step", "moments", "seed"}, "kfac")
        check_seed(state["seed"], self.seed)
        check_progress(state)
        moments: dict[Block, KroneckerMoments] = {}
        previous: BlockVectors = {}
        if state["round"]:
            named = own_values(state["previous_step"], self.pipeline)
            trainable = [block for own in self.blocks for block in own if block.size]
            previous = {block: block.flatten(named) for block in trainable}
            moments = {block: _stored(block, state["moments"]) for block in trainable}
        self._round, self.damping = int(state["round"]), float(state["damping"])
        self._moments, self._previous = moments, previous

    def _averaged(self, expansion: BlockExpansion) -> KroneckerMoments:
        """The averages of a block's moments, including this round's."""
        (own,) = expansion.moments(self._first_moment, self.seed, self.pipeline.work, self.pipeline.replicas)
        assert isinstance(own, KroneckerMoments)
        past = min(1 - 1 / (self._round + 1), LONGEST_MEMORY)
        known = self._moments.get(expansion.block, own)
        inputs, outputs = known.inputs.lerp(own.inputs, 1 - past), known.outputs.lerp(own.outputs, 1 - past)
        return KroneckerMoments(inputs, outputs, own.bias)

    def _precondition(self, moments: Mapping[Block, KroneckerMoments], block: Block, gradient: Tensor) -> Tensor:
        with self.pipeline.work.phase(("precondition", block.index)):
            return KroneckerPreconditioner([moments[block]], 1.0, self.damping)(gradient)


def _check_layers(blocks: Blocks) -> None:
    """Raise ValueError for a layer with weights that has no Kronecker factors."""
    for block in (block for own in blocks for block in own if block.size):
        layer = block.first_trainable_layer
        if not (is_plain_linear(layer) or is_plain_convolution(layer)):
            raise ValueError(
                "kfac needs linear layers and convolutions of one group, all of their parameters trained: "
                f"{layer} is not one; sm, cgblock-ggn and adam can train this network"
            )


def _stored(block: Block, moments: Mapping[str, Mapping[str, Tensor]]) -> KroneckerMoments:
    """A block's moments from a state."""
    layer = block.first_trainable_layer
    weight, bias = layer.parameters["weight"].detach(), "bias" in layer.parameters
    sizes = {"inputs": weight[0].numel() + bias, "outputs": len(weight)}
    found = moments.get(f"{layer.name}.weight", {})
    if {side: tuple(matrix.shape) for side, matrix in found.items()} != {s: (n, n) for s, n in sizes.items()}:
        raise ValueError(f"the state is of another network: it has no moments that fit layer {layer.name}")
    return KroneckerMoments(found["inputs"].to(weight).clone(), found["outputs"].to(weight).clone(), bias)
