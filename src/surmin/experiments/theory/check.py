"""`surmin check`: the gradients, the blocks and the bound of a given network, against dense float64 algebra.

Legend: H the Hessian of Ψ_i∘f_i in (z_{i-1}, θ_i), ℍ the decoupled one. Lemma 1 requires of it
(1) ℍ_zz - H_zz ⪰ 0 and (2) ℍ_θθ - H_θθ - H_zθᵀ [ℍ_zz - H_zz]⁻¹ H_zθ ⪰ 0; then Σ_i L_i bounds the quadratic model of h.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from surmin.experiments.configs.check import CheckConfig, check_search
from surmin.experiments.files import finite
from surmin.experiments.theory.bound import BoundCheck, check_bound
from surmin.experiments.theory.decoupled import DecoupledBlock, decoupled_blocks
from surmin.experiments.theory.dense import DenseNetwork, check_size, surrogate_gradient
from surmin.losses import ConvexLoss
from surmin.options import OptionValues
from surmin.options.presets import resolve_options
from surmin.pipeline.in_process import InProcessPipeline


@dataclass(frozen=True)
class BlockCheck:
    """One trainable block. Errors are relative; eigenvalues are relative to the largest of the bounding matrix.

    Attributes:
        layers: names of its first and last layer.
        parameters: number of parameters.
        gradient_error: ∇Ψ_i, from the gradient wave, against ∂h/∂θ_i by plain backpropagation.
        block_error: the block's matrix, product by product, against the dense one.
        eigenvalue_error: how far λ_max(H_zz) is underestimated (scalar and sample, below which there is a block).
        condition_1: smallest eigenvalue of ℍ_zz - H_zz; the first block has none.
        condition_2: smallest eigenvalue of ℍ_θθ - H_θθ - H_zθᵀ [ℍ_zz - H_zz]⁻¹ H_zθ; in the first block of ℍ_θθ - H_θθ.
    """

    layers: tuple[str, str]
    parameters: int
    gradient_error: float
    block_error: float
    eigenvalue_error: float | None
    condition_1: float | None
    condition_2: float

    def holds(self, tolerance: float) -> bool:
        """Whether everything is right, up to a relative tolerance."""
        lowest = self.condition_2 if self.condition_1 is None else min(self.condition_1, self.condition_2)
        return max(self.gradient_error, self.block_error) <= tolerance and lowest >= -tolerance


@dataclass(frozen=True)
class CheckResult:
    """What was found.

    Attributes:
        loss: h at the current parameters.
        samples: in the batch.
        curvature: "factor", "sample" or "scalar".
        dtype: precision of the package's computations; the references are always float64.
        tolerance: what is attributed to rounding in that dtype.
        blocks: every trainable block.
        bound: how often h(θ + d) > h + Σ_i L_i(d_i), by radius.
    """

    loss: float
    samples: int
    curvature: str
    dtype: str
    tolerance: float
    blocks: tuple[BlockCheck, ...]
    bound: tuple[BoundCheck, ...]

    @property
    def underestimates(self) -> bool:
        """Whether λ_max came out too small, which more products would cure."""
        return any((block.eigenvalue_error or 0.0) > self.tolerance for block in self.blocks)

    @property
    def holds(self) -> bool:
        """Whether gradients, blocks and Lemma 1 are right. The bound on h itself may still fail: see `bound`."""
        return all(block.holds(self.tolerance) for block in self.blocks)

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite becomes null."""
        return {"holds": self.holds, **finite(asdict(self))}


def check_network(
    stages: Sequence[nn.Module], loss: ConvexLoss, inputs: Tensor, targets: Tensor, *,
    radii: Sequence[float] = CheckConfig.radii, trials: int = CheckConfig.trials, **options: Unpack[OptionValues],
) -> CheckResult:  # fmt: skip
    """Check a small network on one batch. The network is left unchanged.

    Args:
        stages: the network as a list of modules.
        loss: of its output; it must have a value, which a gradient oracle does not.
        inputs: a batch (n, *in).
        targets: of the batch.
        radii: lengths of random steps d, as multiples of ‖θ‖.
        trials: steps of every length.
        **options: of `SurrogateMinimizer`; only those that define the local losses matter here. The curvature is taken
            exactly and on the whole batch.

    Raises:
        ValueError: if network or batch cannot be trained, or are too large for dense algebra, saying the limit.
    """
    chosen = resolve_options("compute", options)
    check_search(radii, trials)
    pipeline = InProcessPipeline(stages, loss)
    wave = pipeline.forward(inputs, targets)
    dense = DenseNetwork.of(stages, loss, inputs, targets, chosen.blocks)
    check_size(dense)
    value = float(dense.value([block.vector() for block in dense.blocks]))
    if not math.isfinite(value):
        raise ValueError(f"the loss is {value:g} at the current parameters: there is nothing to bound")
    found = decoupled_blocks(pipeline, wave, dense, chosen)
    exact = dense.gradients()
    dtype = found[0].gradient.dtype
    return CheckResult(
        loss=value,
        samples=len(inputs),
        curvature=chosen.curvature,
        dtype=str(dtype).removeprefix("torch."),
        tolerance=1e-8 if dtype == torch.float64 else 1e-3,
        blocks=tuple(_check_block(block, dense, exact[block.position]) for block in found),
        bound=check_bound(dense, found, radii, trials, chosen),
    )


def _check_block(found: DecoupledBlock, dense: DenseNetwork, exact: Tensor) -> BlockCheck:
    block, z = dense.blocks[found.position], dense.points[found.position]
    gradient = surrogate_gradient(block, z, found.cotangent.double())
    conditions = found.conditions
    layers = block.block.layers
    return BlockCheck(
        layers=(layers[0].name, layers[-1].name),
        parameters=block.size,
        gradient_error=max(relative_error(gradient, exact), relative_error(found.gradient.double(), exact)),
        block_error=relative_error(found.matrix, found.reference),
        eigenvalue_error=conditions.eigenvalue_error,
        condition_1=conditions.first,
        condition_2=conditions.second,
    )


def relative_error(found: Tensor, exact: Tensor) -> float:
    """‖found - exact‖ / ‖exact‖; absolute if exact is zero."""
    size = float(exact.norm())
    return float((found - exact).norm()) / (size if size > 0 else 1.0)
