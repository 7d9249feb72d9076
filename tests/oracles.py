"""Dense float64 references by another road than the package takes: nested autodiff, explicit Jacobians, plain loops.

Nothing here imports from `surmin` but the names of the losses. It is meant for networks of a few hundred parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from surmin.losses import ConvexLoss, CrossEntropy, LogisticLoss, SquaredError
from tests.cases import Case


def reference_loss(loss: ConvexLoss, output: Tensor, target: Tensor) -> Tensor:
    """The loss of one sample (no sample axis), from torch's own losses; mean over positions."""
    rows, positions = output.reshape(-1, output.shape[-1]), output[..., 0].numel()
    if isinstance(loss, CrossEntropy):
        return F.cross_entropy(rows, target.reshape(-1), reduction="sum") / positions
    if isinstance(loss, SquaredError):
        return F.mse_loss(rows, target.reshape(rows.shape), reduction="sum") / 2 / positions
    assert isinstance(loss, LogisticLoss)
    labels = target.reshape(rows.shape)
    return (labels * F.softplus(-rows) + (1 - labels) * F.softplus(rows)).sum() / positions


def reference_mean_loss(loss: ConvexLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    """H, the mean over samples."""
    return torch.stack([reference_loss(loss, z, y) for z, y in zip(outputs, targets, strict=True)]).mean()


@dataclass(frozen=True)
class DenseBlock:
    """A run of modules as a function of its input and one flat vector of its trainable parameters."""

    module: nn.Sequential

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.trainable.values())

    def vector(self) -> Tensor:
        return torch.cat(
            [torch.zeros(0, dtype=torch.float64), *(p.detach().reshape(-1) for p in self.trainable.values())]
        )

    def __call__(self, inputs: Tensor, vector: Tensor) -> Tensor:
        pieces = vector.split([p.numel() for p in self.trainable.values()]) if self.size else ()
        values = {name: piece.view(p.shape) for (name, p), piece in zip(self.trainable.items(), pieces, strict=True)}
        return functional_call(self.module, values, (inputs,))


def layer_blocks(network: nn.Sequential) -> list[DenseBlock]:
    """One block per trainable layer; layers without parameters go with the one before, leading ones with the first."""
    groups: list[list[nn.Module]] = [[]]
    for module in network:
        trains = any(p.requires_grad for p in module.parameters())
        if trains and any(p.requires_grad for other in groups[-1] for p in other.parameters()):
            groups.append([])
        groups[-1].append(module)
    return [DenseBlock(nn.Sequential(*group)) for group in groups]


def stage_blocks(stages: Sequence[nn.Module]) -> list[DenseBlock]:
    """One block per stage."""
    return [DenseBlock(nn.Sequential(stage)) for stage in stages]


def run(blocks: Sequence[DenseBlock], inputs: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    """The network's output at the given parameters."""
    state = inputs
    for block, vector in zip(blocks, vectors, strict=True):
        state = block(state, vector)
    return state


def points(blocks: Sequence[DenseBlock], inputs: Tensor) -> list[Tensor]:
    """z_0 … z_m at the current parameters."""
    states = [inputs]
    for block in blocks:
        states.append(block(states[-1], block.vector()).detach())
    return states


def gradients(blocks: Sequence[DenseBlock], case: Case, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """∂h/∂θ of every block, by plain backpropagation."""
    leaves = [block.vector().requires_grad_() for block in blocks]
    loss = reference_mean_loss(case.loss, run(blocks, inputs, leaves), targets)
    return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))


def jacobians(blocks: Sequence[DenseBlock], inputs: Tensor) -> list[Tensor]:
    """d output / d θ_i of every block, each (n, outputs per sample, P_i)."""
    vectors = tuple(block.vector() for block in blocks)
    dense = jacobian(lambda *values: run(blocks, inputs, values).flatten(1), vectors)
    return list(dense)


def loss_hessians(loss: ConvexLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    """∇²ℓ_j over all of a sample's outputs, (n, D, D)."""
    return torch.stack([
        hessian(lambda z, y=y, shape=z.shape: reference_loss(loss, z.view(shape), y), z.flatten())
        for z, y in zip(outputs, targets, strict=True)
    ])  # fmt: skip


def gauss_newton(blocks: Sequence[DenseBlock], case: Case, inputs: Tensor, targets: Tensor) -> list[list[Tensor]]:
    """Block (i, k) of (1/n) Σ_j J_jᵀ ∇²ℓ_j J_j over the whole network."""
    columns = jacobians(blocks, inputs)
    curvatures = loss_hessians(case.loss, points(blocks, inputs)[-1], targets)
    n = len(inputs)
    return [
        [sum(left[j].t() @ curvatures[j] @ right[j] for j in range(n)) / n for right in columns]
        for left in columns
    ]  # fmt: skip


@dataclass(frozen=True)
class DenseRecursion:
    """Appendix A for one block, densely, in units of the mean loss.

    `zz`, `zt`, `tt` are the Hessian's blocks of Ψ_i∘f_i; `above` is the curvature of Ψ_i in the block's output; `below`
    is the diagonal (L_{i-1} / n for every entry of z) of ℍ_zz; `local` is ℍ_i.
    """

    above: Tensor
    zz: Tensor
    zt: Tensor
    tt: Tensor
    below: Tensor
    local: Tensor


def appendix_a(
    blocks: Sequence[DenseBlock], case: Case, inputs: Tensor, targets: Tensor, smoothness: float, *,
    per_sample: bool, delta: float = 1.0, delta_relative: float | None = None,
) -> list[DenseRecursion]:  # fmt: skip
    """The recursion of Appendix A with exact eigenvalues; `smoothness` is the loss's constant, per sample."""
    n = len(inputs)
    states = points(blocks, inputs)
    cotangents = _cotangents(blocks, case, states, targets)
    constants = torch.full((n,), smoothness, dtype=torch.float64)
    found = []
    for index in reversed(range(len(blocks))):
        block, z = blocks[index], states[index]
        zz, zt, tt = _surrogate_hessian(block, z, states[index + 1], cotangents[index + 1], constants / n)
        above, below, local = constants, torch.zeros(0), tt
        if index:
            width = z[0].numel()
            own = [slice(j * width, (j + 1) * width) for j in range(n)]
            largest = torch.stack([torch.linalg.eigvalsh(n * zz[part, part])[-1] for part in own])
            if not per_sample:
                largest = largest.max().expand(n)
            deltas = (
                torch.full((n,), delta, dtype=torch.float64) if delta_relative is None else delta_relative * largest
            )
            if not block.size:
                deltas = torch.zeros(n, dtype=torch.float64)
            constants = largest + deltas
            below = (constants / n).repeat_interleave(width)
            if block.size:
                local = tt + zt.t() @ torch.diag((n / deltas).repeat_interleave(width)) @ zt
        found.append(DenseRecursion(above, zz, zt, tt, below, local))
    return found[::-1]


def _cotangents(blocks: Sequence[DenseBlock], case: Case, states: Sequence[Tensor], targets: Tensor) -> list[Tensor]:
    """∂h/∂z_i at every boundary (zero for integer inputs)."""
    result = []
    for index, z in enumerate(states):
        if not z.is_floating_point():
            result.append(torch.zeros(0))
            continue
        leaf = z.clone().requires_grad_()
        output = run(blocks[index:], leaf, [block.vector() for block in blocks[index:]])
        result.append(torch.autograd.grad(reference_mean_loss(case.loss, output, targets), leaf)[0])
    return result


def _surrogate_hessian(
    block: DenseBlock, z: Tensor, output: Tensor, cotangent: Tensor, constants: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks of ∇²[⟨g, f - f̄⟩ + ½ Σ_j L_j ‖f_j - f̄_j‖²] in (z, θ) by nested reverse mode."""
    n = len(z)

    def surrogate(inputs: Tensor, vector: Tensor) -> Tensor:
        change = block(inputs.view(z.shape), vector) - output
        return (cotangent * change).sum() + 0.5 * (constants * change.reshape(n, -1).square().sum(1)).sum()

    theta = block.vector()
    if not z.is_floating_point():
        tt = hessian(lambda vector: surrogate(z, vector), theta)
        return torch.zeros(0, 0), torch.zeros(0, len(theta)), tt
    if not block.size:
        zz = hessian(lambda inputs: surrogate(inputs, theta), z.flatten())
        return zz, torch.zeros(z.numel(), 0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64)
    (zz, zt), (_, tt) = hessian(surrogate, (z.flatten(), theta))
    return zz, zt, tt


def dense(product: Callable[[Tensor], Tensor], size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The matrix of a linear map of flat vectors, column by column."""
    return torch.stack([product(unit) for unit in torch.eye(size, dtype=dtype)], dim=1)


def assert_is_map_of(matrix: Tensor, product: Callable[[Tensor], Tensor], *, rtol: float, atol: float) -> None:
    """That a linear map is the one of a matrix: two that differ hardly agree on one random vector, let alone eight."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(min(8, matrix.shape[1]), matrix.shape[1], generator=generator, dtype=matrix.dtype)
    found = torch.stack([product(vector) for vector in vectors]) if len(vectors) else vectors
    torch.testing.assert_close(found, vectors @ matrix.t(), rtol=rtol, atol=atol)
