"""What the package's waves leave in every block, as dense matrices beside their references, with Lemma 1's conditions.

Legend: Lemma 1 multiplies M_i on its way down. With `factor` it reaches block i divided by s_i, where s_m = 1 and
s_{i-1} = s_i - 1/κ_i (so s_i = i/m for κ = m); `scalar` and `sample` have it in their L_i.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.curvature.output_curvature import OutputCurvature
from surmin.curvature.scalar import DecoupledHessian
from surmin.experiments.theory.dense import DenseHessian, DenseNetwork, surrogate_hessian
from surmin.experiments.theory.expansion import block_expansions, exactly
from surmin.options import Options
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.wave import BlockExpansion, Wave
from surmin.seeds import draw_seed
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
    curvature = output_curvature(options)
    expansions = block_expansions(pipeline, wave, options)
    below = [_below(own, curvature, options.seed, len(dense.inputs)) for own in expansions]
    positions = [position for position, block in enumerate(dense.blocks) if block.size]
    blocks = list(zip(expansions, below, positions, inflation(options, len(expansions)), strict=True))
    if options.curvature != "factor":
        return [_scalar_block(own, message, position, dense) for own, message, position, _ in blocks]
    by_parameters, by_inputs = dense.jacobians()
    hessians = dense.loss_hessians()
    if options.top_factor == "smoothness":
        constant = dense.loss.smoothness(dense.points[-1])
        hessians = constant * torch.eye(hessians.shape[1]).to(hessians).expand_as(hessians)
    found, share = [], 1.0
    for own, message, position, kappa in reversed(blocks):
        exact = _gauss_newton(by_parameters[position], by_inputs[position], hessians)
        found.append(_factor_block(own, message, position, exact, kappa, share))
        share -= 1 / kappa
    return found[::-1]


@torch.no_grad()
def _below(own: BlockExpansion, curvature: OutputCurvature, seed: int, samples: int) -> Tensor | None:
    """What went down from a block; nothing from the first that trains."""
    if not own.block.index:
        return None
    _, below = curvature.descend(own.block, own.tapes, own.messages, samples, draw_seed(seed, own.block.index))
    return below[0][0].double()


def _scalar_block(own: BlockExpansion, below: Tensor | None, position: int, dense: DenseNetwork) -> DecoupledBlock:
    """ℍ and L_{i-1} against H_θθ + H_zθᵀ H_zθ / δ and λ_max(H_zz), all with the L_i that arrived."""
    samples = len(dense.inputs)
    above = own.messages[0][0].double().expand(samples)
    cotangent = samples * _cotangent(own).double()
    exact = surrogate_hessian(dense.blocks[position], dense.points[position], cotangent, above)
    matrix, tt = _matrix(own), exact.tt / samples
    if below is None:
        return _decoupled(own, position, matrix, tt, 1.0, Conditions(_lowest(matrix - tt, matrix)))
    constants = below.expand(samples)
    assert isinstance(own.curvature, DecoupledHessian) and own.curvature.inverse_delta is not None
    deltas = own.curvature.inverse_delta.double().reciprocal().expand(samples)
    mixed = exact.zt / deltas.sqrt().view(-1, 1, 1)
    reference = (exact.tt + torch.einsum("ndp,ndq->pq", mixed, mixed)) / samples
    largest = torch.linalg.eigvalsh(exact.zz)[:, -1]
    if len(below) == 1:
        largest = largest.max().expand(samples)
    room = torch.diag_embed(constants.view(-1, 1).expand(samples, exact.zz.shape[1])) - exact.zz
    shortfall = ((largest - (constants - deltas)) / largest.abs().clamp_min(torch.finfo(torch.float64).tiny)).max()
    conditions = Conditions(
        first=float(torch.linalg.eigvalsh(room)[:, 0].min() / constants.abs().max()),
        second=_second(matrix, tt, room, exact.zt, torch.finfo(room.dtype).eps),
        eigenvalue_error=float(shortfall),
    )
    return _decoupled(own, position, matrix, reference, 1.0, conditions)


def _gauss_newton(theta: Tensor, z: Tensor, curvature: Tensor) -> DenseHessian:
    """Jᵀ ∇²ℓ J, from J_θ (n, C, P) and J_z (n, C, D) of the network's output, and ∇²ℓ (n, C, C)."""
    pulled = z.transpose(1, 2) @ curvature
    return DenseHessian(pulled @ z, pulled @ theta, torch.einsum("ncp,ncq->pq", theta, curvature @ theta))


def _factor_block(
    own: BlockExpansion, below: Tensor | None, position: int, exact: DenseHessian, kappa: float, share: float
) -> DecoupledBlock:
    """G, and the columns R that go down, against Jᵀ ∇²ℓ J; all times s_i, so that ℍ_zz = s_i/s_{i-1} R Rᵀ."""
    matrix, tt, bound = _matrix(own), exact.tt / len(exact.zz), share * kappa
    if below is None:
        return _decoupled(own, position, matrix, tt, kappa, Conditions(_lowest(bound * matrix - tt, tt)))
    columns = below.flatten(2)
    sent = share / max(share - 1 / kappa, SMALLEST_SHARE) * torch.einsum("knd,kne->nde", columns, columns)
    room, noise = sent - exact.zz, torch.finfo(own.gradient.dtype).eps ** 0.5
    scale = sent.abs().amax().clamp_min(torch.finfo(sent.dtype).tiny)
    conditions = Conditions(
        second=_second(bound * matrix, tt, room, exact.zt, noise),
        first=float(torch.linalg.eigvalsh(room)[:, 0].min() / scale),
    )
    return _decoupled(own, position, matrix, tt, kappa, conditions)


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
    own: BlockExpansion, position: int, matrix: Tensor, reference: Tensor, inflation: float, conditions: Conditions
) -> DecoupledBlock:
    return DecoupledBlock(position, own.gradient, _cotangent(own), matrix, reference, inflation, conditions)


def _cotangent(own: BlockExpansion) -> Tensor:
    return own.tapes[0].cotangents[own.block.stop]


@torch.no_grad()
def _matrix(own: BlockExpansion) -> Tensor:
    """The block's curvature, product by product."""
    units = torch.eye(len(own.gradient), dtype=own.gradient.dtype, device=own.gradient.device)
    return torch.stack([own.curvature.product(unit) for unit in units], dim=1).double()
