"""The best combination of two steps, by the exact quadratic model of the loss over all blocks at once.

Legend: δ = α Δ + μ δ₀, g = ∇h, F = (1/n) Σ_j J_jᵀ ∇²ℓ_j J_j the Gauss-Newton or Fisher matrix of the whole network,
M(δ) = ⟨g, δ⟩ + ½ δᵀ (F + λI) δ.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.methods.blocks.block_vectors import BlockVectors, inner
from surmin.methods.hessian.loss import loss_hessian
from surmin.methods.hessian.wave import HessianAtPoint
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline


@dataclass(frozen=True)
class Combined:
    """Attributes: the mean loss h, ‖g‖², δ of the blocks here, and the predicted decrease -M(δ)."""

    loss: float
    square: float
    step: BlockVectors
    decrease: float


@torch.no_grad()
def combine(
    pipeline: WorkerPipeline, wave: Wave, hessian: HessianAtPoint, gradients: BlockVectors,
    steps: tuple[BlockVectors, BlockVectors], damping: float,
) -> Combined:  # fmt: skip
    """α and μ that minimise M: a wave of two tangents up, and one sum of eleven numbers over the workers.

    Args:
        pipeline: the network.
        wave: at the current parameters.
        hessian: there, with `JointColumns`.
        gradients: g.
        steps: Δ and δ₀, which may be zero.
        damping: λ.
    """
    newest, last = steps
    names = {block: block.first_trainable_layer.name for block in newest}
    tangents = hessian.outputs({name: torch.stack([newest[block], last[block]]) for block, name in names.items()})
    pairs = [(gradients, gradients), (gradients, newest), (gradients, last)]
    pairs += [(newest, newest), (newest, last), (last, last)]
    fisher = _fisher_products(pipeline, wave, tangents).flatten()
    shares = [wave.loss, *(inner(*pair).to(wave.loss) for pair in pairs), *fisher.to(wave.loss)]
    loss, square, *numbers = pipeline.total(torch.stack(shares))
    slopes, squares, products = (torch.tensor(own, dtype=torch.float64) for own in _cut(numbers))
    model = products.view(2, 2) + damping * squares[[0, 1, 1, 2]].view(2, 2)
    best = -torch.linalg.pinv(model, hermitian=True) @ slopes if model.isfinite().all() else slopes * math.nan
    alpha, mu = best.tolist()
    step = {block: alpha * newest[block] + mu * last[block] for block in newest}
    return Combined(loss, square, step, -float(slopes @ best + 0.5 * best @ model @ best))


def _cut(numbers: list[float]) -> tuple[list[float], list[float], list[float]]:
    return numbers[:2], numbers[2:5], numbers[5:]


def _fisher_products(pipeline: WorkerPipeline, wave: Wave, tangents: list[Tensor]) -> Tensor:
    """δᵀ F δ' for both steps, on the worker with the last stage; zero elsewhere."""
    total = torch.zeros(2, 2, dtype=torch.float64)
    for columns, outputs, targets in zip(tangents, wave.outputs, wave.targets, strict=False):
        images = loss_hessian(pipeline.loss, outputs, targets)(columns)
        total = total.to(images.device) + columns.flatten(1).double() @ images.flatten(1).double().T
    return total / wave.shape[0]
