"""What the package's waves leave in every block, as dense matrices beside their references, with Lemma 1's conditions.

Legend: Lemma 1 multiplies M_i on its way down. With `factor` it reaches block i divided by s_i, where s_m = 1 and
s_{i-1} = s_i - 1/κ_i (so s_i = i/m for κ = m); `scalar` and `sample` have it in their L_i.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surmin.curvature.output_curvature import BlockCurvature, Message
from surmin.curvature.scalar import DecoupledHessian
from surmin.experiments.theory.dense import DenseNetwork, surrogate_hessian
from surmin.options import Options
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.wave import Wave
from surmin.stages.block import Block, cut_blocks
from surmin.upper_bound import inflation, output_curvature

SMALLEST_SHARE = 1e-12
"""Stands for s_0 = 0 where wrong κ use it up too early."""


@dataclass(frozen=True)
class Conditions:
    """Smallest eigenvalues, relative, that Lemma 1 wants to be ≥ 0; the first block has none for its input."""

    second: float
    first: float | None = None
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
    pipeline: InProcessPipeline, wave: Wave, dense: DenseNetwork, options: Options
) -> list[DecoupledBlock]:
    """Every trainable block, from the first to the last.

    Args:
        pipeline: with the network itself, in its own dtype.
        wave: a forward wave over it.
        dense: the references.
        options: which curvature and blocks; it is taken exactly and on the whole batch.
    """
    options = exactly(options)
    left = _curvature_wave(pipeline, wave, options)
    trainable = [position for position, block in enumerate(dense.blocks) if block.size]
    kappas = inflation(options, len(trainable))
    if options.curvature != "factor":
        return [_scalar_block(left[position], position, dense) for position in trainable]
    by_parameters, by_inputs = dense.jacobians()
    hessians = dense.loss_hessians()
    if options.top_factor == "smoothness":
        constant = dense.loss.smoothness(dense.points[-1])
        hessians = constant * torch.eye(hessians.shape[1]).to(hessians).expand_as(hessians)
    found, share = [], 1.0
    for position, kappa in zip(reversed(trainable), reversed(kappas), strict=True):
        exact = _Jacobians(by_parameters[position], by_inputs[position], hessians)
        found.append(_factor_block(left[position], position, exact, kappa, share))
        share -= 1 / kappa
    return found[::-1]


def _curvature_wave(pipeline: InProcessPipeline, wave: Wave, options: Options) -> dict[int, _Left]:
    """Waves 2 and 3 over the network itself, whole batch and exact rank, by the blocks' positions."""
    blocks = cut_blocks(pipeline.stages, options.blocks)
    starts = {stage: [b.start for b in own if b.start] for stage, own in zip(pipeline.stages, blocks, strict=True)}
    gradients = pipeline.backward(wave, starts)
    curvature = output_curvature(options)
    flat = [(stage, block) for stage, own in enumerate(blocks) for block in own]
    found: dict[int, _Left] = {}
    with torch.no_grad():
        messages = curvature.top(pipeline.loss, wave.outputs, wave.targets, options.seed)
        for position in reversed(range(len(flat))):
            stage, block = flat[position]
            tapes = wave.tapes[stage]
            own, below = curvature.descend(block, tapes, messages, wave.shape[0], options.seed)
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
        own = exact.tt / samples
        return _decoupled(left, position, matrix, own, 1.0, Conditions(_lowest(matrix - own, matrix)))
    below = left.below[0].double().expand(samples)
    assert isinstance(left.curvature, DecoupledHessian) and left.curvature.inverse_delta is not None
    deltas = left.curvature.inverse_delta.double().reciprocal().expand(samples)
    mixed = exact.zt / deltas.sqrt().view(-1, 1, 1)
    reference = (exact.tt + torch.einsum("ndp,ndq->pq", mixed, mixed)) / samples
    largest = torch.linalg.eigvalsh(exact.zz)[:, -1]
    if len(left.below[0]) == 1:
        largest = largest.max().expand(samples)
    room = torch.diag_embed(below.view(-1, 1).expand(samples, exact.zz.shape[1])) - exact.zz
    shortfall = ((largest - (below - deltas)) / largest.abs().clamp_min(torch.finfo(torch.float64).tiny)).max()
    conditions = Conditions(
        first=float(torch.linalg.eigvalsh(room)[:, 0].min() / below.abs().max()),
        second=_second(matrix, exact.tt / samples, room, exact.zt, torch.finfo(room.dtype).eps),
        eigenvalue_error=float(shortfall),
    )
    return _decoupled(left, position, matrix, reference, 1.0, conditions)


@dataclass(frozen=True)
class _Jacobians:
    """J_θ (n, C, P) and J_z (n, C, D) of the network's output, and ∇²ℓ (n, C, C)."""

    theta: Tensor
    z: Tensor
    curvature: Tensor

    @property
    def tt(self) -> Tensor:
        return torch.einsum("ncp,ncq->pq", self.theta, self.curvature @ self.theta) / len(self.theta)

    @property
    def zz(self) -> Tensor:
        return self.z.transpose(1, 2) @ self.curvature @ self.z

    @property
    def zt(self) -> Tensor:
        return self.z.transpose(1, 2) @ self.curvature @ self.theta


def _factor_block(left: _Left, position: int, exact: _Jacobians, kappa: float, share: float) -> DecoupledBlock:
    """G, and the columns R that go down, against Jᵀ ∇²ℓ J; all times s_i, so that ℍ_zz = s_i/s_{i-1} R Rᵀ."""
    matrix, own, bound = _matrix(left), exact.tt, share * kappa
    if left.below is None:
        return _decoupled(left, position, matrix, own, kappa, Conditions(_lowest(bound * matrix - own, own)))
    columns = left.below[0].double().flatten(2)
    sent = share / max(share - 1 / kappa, SMALLEST_SHARE) * torch.einsum("knd,kne->nde", columns, columns)
    room, noise = sent - exact.zz, torch.finfo(left.gradient.dtype).eps ** 0.5
    scale = sent.abs().amax().clamp_min(torch.finfo(sent.dtype).tiny)
    conditions = Conditions(
        second=_second(bound * matrix, own, room, exact.zt, noise),
        first=float(torch.linalg.eigvalsh(room)[:, 0].min() / scale),
    )
    return _decoupled(left, position, matrix, own, kappa, conditions)


def _second(bound: Tensor, own: Tensor, room: Tensor, mixed: Tensor, noise: float) -> float:
    """Smallest eigenvalue of ℍ_θθ - H_θθ - (1/n) Σ_j H_zθᵀ [ℍ_zz - H_zz]⁺ H_zθ, relative to ℍ_θθ.

    Eigenvalues of ℍ_zz - H_zz below the relative `noise` are taken for zeros, where H_zθ is zero too.
    """
    inverse = torch.linalg.pinv(room, rtol=noise, hermitian=True)
    schur = bound - own - torch.einsum("ndp,nde,neq->pq", mixed, inverse, mixed) / len(room)
    return _lowest(schur, bound)


def _lowest(matrix: Tensor, scale: Tensor) -> float:
    """The smallest eigenvalue of a nearly symmetric matrix, relative to the largest of another."""
    largest = torch.linalg.eigvalsh(scale).abs().max().clamp_min(torch.finfo(scale.dtype).tiny)
    return float(torch.linalg.eigvalsh(0.5 * (matrix + matrix.t()))[0] / largest)


def _decoupled(
    left: _Left, position: int, matrix: Tensor, reference: Tensor, inflation: float, conditions: Conditions
) -> DecoupledBlock:
    return DecoupledBlock(position, left.gradient, left.cotangent, matrix, reference, inflation, conditions)


@torch.no_grad()
def _matrix(left: _Left) -> Tensor:
    """The block's curvature, product by product."""
    units = torch.eye(left.block.size, dtype=left.gradient.dtype, device=left.gradient.device)
    return torch.stack([left.curvature.product(unit) for unit in units], dim=1).double()


def exactly(options: Options) -> Options:
    """The same local losses of the whole batch, of full rank, and of blocks that move together."""
    return replace(options, rank=None, curvature_fraction=1.0, wire=None, order="parallel")
