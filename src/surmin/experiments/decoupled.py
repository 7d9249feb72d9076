"""What the package's waves leave in every block, as dense matrices beside their references, with Lemma 1's conditions.

Legend: c_i the factor that Lemma 1 has put on the curvature M_i by the time it reaches block i from above: 1/c_i = Σ_{k ≤ i} 1/κ_k
for `factor` (so m/i for κ = m), and 1 for `scalar` and `sample`, whose L_i contains it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.output_curvature import BlockCurvature, Message
from surmin.curvature.scalar import ScalarCurvature
from surmin.experiments.dense import DenseNetwork, surrogate_hessian
from surmin.losses import ConvexLoss
from surmin.options import Options
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.block import Block, cut_blocks
from surmin.surrogates.decoupling import check_decoupling, uniform_decoupling


@dataclass(frozen=True)
class Conditions:
    """Smallest eigenvalues that Lemma 1 wants to be ≥ 0, relative; None for the first block, which has nothing below."""

    first: float | None = None
    second: float | None = None
    eigenvalue_error: float | None = None


@dataclass(frozen=True)
class DecoupledBlock:
    """One trainable block.

    Attributes:
        position: among all blocks of the network.
        gradient: ∂h/∂θ_i, from the gradient wave.
        cotangent: ∂h/∂z_i, from the gradient wave.
        matrix: the block's curvature without κ, product by product.
        reference: the same, densely.
        inflation: κ.
        conditions: of Lemma 1.
    """

    position: int
    gradient: Tensor
    cotangent: Tensor
    matrix: Tensor
    reference: Tensor
    inflation: float
    conditions: Conditions

    def local_loss(self, step: Tensor, cubic: float) -> Tensor:
        """L_i(d) of equation (1)."""
        quadratic = self.inflation / 2 * step.dot(self.matrix @ step)
        return self.gradient.double().dot(step) + quadratic + 2 * cubic / 3 * step.norm() ** 3


@dataclass(frozen=True)
class _Left:
    """What the waves left in one block, and the curvature's messages above and below it."""

    block: Block
    gradient: Tensor
    cotangent: Tensor
    curvature: BlockCurvature
    above: Message
    below: Message | None


def decoupled_blocks(
    modules: Sequence[nn.Module],
    loss: ConvexLoss,
    inputs: Tensor,
    targets: Tensor,
    dense: DenseNetwork,
    options: Options,
) -> list[DecoupledBlock]:
    """Every trainable block, from the first to the last."""
    left = _waves(modules, loss, inputs, targets, options)
    trainable = [position for position, block in enumerate(dense.blocks) if block.size]
    kappas = _inflation(options, len(trainable))
    if options.curvature != "factor":
        return [_scalar_block(left[position], position, dense) for position in trainable]
    by_parameters, by_inputs = dense.jacobians()
    hessians = dense.loss_hessians()
    return [
        _factor_block(left[position], position, by_parameters[position], by_inputs[position], hessians, kappas[: i + 1])
        for i, position in enumerate(trainable)
    ]


def _waves(
    modules: Sequence[nn.Module], loss: ConvexLoss, inputs: Tensor, targets: Tensor, options: Options
) -> dict[int, _Left]:
    """Waves 1 to 3 over the network itself, whole batch and exact rank, by the blocks' positions."""
    pipeline = InProcessPipeline(modules, loss)
    blocks = cut_blocks(pipeline.stages, options.blocks)
    wave = pipeline.forward(inputs, targets)
    starts = {stage: [b.start for b in own if b.start] for stage, own in zip(pipeline.stages, blocks, strict=True)}
    gradients = pipeline.backward(wave, starts)
    curvature = _curvature(options)
    flat = [(stage, block) for stage, own in enumerate(blocks) for block in own]
    found: dict[int, _Left] = {}
    with torch.no_grad():
        messages = curvature.top(loss, wave.outputs, wave.targets, options.seed)
        for position in reversed(range(len(flat))):
            stage, block = flat[position]
            tapes = wave.tapes[stage]
            own, below = curvature.descend(block, tapes, messages, options.seed)
            if block.size:
                gradient = torch.cat(gradients[pipeline.stages[stage]][block.start : block.stop])
                under = None if block.index == 0 else below[0]
                found[position] = _Left(block, gradient, tapes[0].cotangents[block.stop], own, messages[0], under)
            if block.index == 0:
                break
            messages = below
    return found


def _scalar_block(left: _Left, position: int, dense: DenseNetwork) -> DecoupledBlock:
    """ℍ and L_{i-1} against H_θθ + H_zθᵀ H_zθ / δ and λ_max(H_zz), all with the L_i that arrived."""
    samples = len(dense.inputs)
    above = left.above[0].double().expand(samples)
    cotangent = samples * left.cotangent.double()
    exact = surrogate_hessian(dense.blocks[position], dense.points[position], cotangent, above)
    matrix = _matrix(left)
    if left.below is None:
        return _decoupled(left, position, matrix, exact.tt / samples, 1.0, Conditions())
    below = left.below[0].double().expand(samples)
    deltas = left.curvature.inverse_deltas[0].double().reciprocal().expand(samples)  # type: ignore[attr-defined]
    mixed = exact.zt / deltas.sqrt().view(-1, 1, 1)
    reference = (exact.tt + torch.einsum("ndp,ndq->pq", mixed, mixed)) / samples
    largest = torch.linalg.eigvalsh(exact.zz)[:, -1]
    if len(left.below[0]) == 1:
        largest = largest.max().expand(samples)
    room = torch.diag_embed(below.view(-1, 1).expand(samples, exact.zz.shape[1])) - exact.zz
    shortfall = ((largest - (below - deltas)) / largest.abs().clamp_min(torch.finfo(torch.float64).tiny)).max()
    conditions = Conditions(
        first=float(torch.linalg.eigvalsh(room)[:, 0].min() / below.abs().max()),
        second=_second(matrix, exact.tt / samples, room, exact.zt),
        eigenvalue_error=float(shortfall),
    )
    return _decoupled(left, position, matrix, reference, 1.0, conditions)


def _factor_block(
    left: _Left, position: int, by_parameters: Tensor, by_inputs: Tensor, hessians: Tensor, kappas: Sequence[float]
) -> DecoupledBlock:
    """G, and the columns that go down, against Jᵀ ∇²ℓ J; ℍ_zz is c_{i-1} times what went down."""
    samples = len(hessians)
    bent = hessians @ by_parameters
    reference = torch.einsum("ncp,ncq->pq", by_parameters, bent) / samples
    matrix = _matrix(left)
    if left.below is None:
        return _decoupled(left, position, matrix, reference, kappas[-1], Conditions())
    factor = 1 / sum(1 / kappa for kappa in kappas)
    factor_below = 1 / sum(1 / kappa for kappa in kappas[:-1])
    columns = left.below[0].double().flatten(2)
    sent = factor_below * torch.einsum("knd,kne->nde", columns, columns)
    exact_zz = by_inputs.transpose(1, 2) @ hessians @ by_inputs
    room = sent - factor * exact_zz
    conditions = Conditions(
        first=float(
            torch.linalg.eigvalsh(room)[:, 0].min() / sent.abs().amax().clamp_min(torch.finfo(sent.dtype).tiny)
        ),
        second=_second(kappas[-1] * matrix, factor * reference, room, factor * (by_inputs.transpose(1, 2) @ bent)),
    )
    return _decoupled(left, position, matrix, reference, kappas[-1], conditions)


def _second(bound: Tensor, own: Tensor, room: Tensor, mixed: Tensor) -> float:
    """Smallest eigenvalue of ℍ_θθ - H_θθ - (1/n) Σ_j H_zθᵀ [ℍ_zz - H_zz]⁺ H_zθ, relative to ℍ_θθ."""
    inverse = torch.linalg.pinv(room, rtol=1e-10, hermitian=True)
    schur = bound - own - torch.einsum("ndp,nde,neq->pq", mixed, inverse, mixed) / len(room)
    largest = torch.linalg.eigvalsh(bound).abs().max().clamp_min(torch.finfo(bound.dtype).tiny)
    return float(torch.linalg.eigvalsh(0.5 * (schur + schur.t()))[0] / largest)


def _decoupled(
    left: _Left, position: int, matrix: Tensor, reference: Tensor, inflation: float, conditions: Conditions
) -> DecoupledBlock:
    return DecoupledBlock(position, left.gradient, left.cotangent, matrix, reference, inflation, conditions)


@torch.no_grad()
def _matrix(left: _Left) -> Tensor:
    """The block's curvature, product by product."""
    units = torch.eye(left.block.size, dtype=left.gradient.dtype, device=left.gradient.device)
    return torch.stack([left.curvature.product(unit) for unit in units], dim=1).double()


def _curvature(options: Options) -> FactorCurvature | ScalarCurvature:
    if options.curvature == "factor":
        return FactorCurvature(None, 1.0, top_factor=options.top_factor)
    return ScalarCurvature(
        options.curvature == "sample", options.delta, options.delta_relative, options.power_steps, options.eigenvalue
    )


def _inflation(options: Options, blocks: int) -> list[float]:
    if options.decoupling is not None:
        return check_decoupling(options.decoupling, blocks)
    return uniform_decoupling(blocks)
