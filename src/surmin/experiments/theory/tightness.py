"""How much more curvature the local losses claim than the loss has, layer by layer.

Legend: ℍ_i of the local loss (κ and δ included), G_i the block's Gauss-Newton matrix, ∇²_ii h its Hessian, g_i its
gradient; L_i the output curvature that arrived at the block, R_i the exact factor there, with R_i R_iᵀ for M_i = L_i I.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from surmin.experiments.theory.expansion import LocalBlock, expand, largest_eigenvalue
from surmin.options import Options
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.layer import flatten

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix times a vector (P,)."""
Curvature = Literal["scalar", "sample", "factor"]
CURVATURES: tuple[Curvature, ...] = ("scalar", "sample", "factor")


ROUNDING = 1e-12
"""Relative excess that counts as none."""


@dataclass(frozen=True)
class LayerTightness:
    """One layer of one network under one curvature. Ratios are what ℍ_i claims over what is there; 1 is exact.

    Attributes:
        curvature: "scalar", "sample" or "factor".
        layer: from 1 at the input to m at the output.
        random_ratio: mean of vᵀℍ_i v over mean of vᵀG_i v over random directions: an estimate of the traces' ratio.
        gradient_ratio: g_iᵀℍ_i g_i / g_iᵀG_i g_i.
        random_hessian_ratio: like the first with ∇²_ii h for G_i; negative where that curves downwards.
        gradient_hessian_ratio: like the second with ∇²_ii h for G_i.
        largest_ratio: λ_max(ℍ_i) / λ_max(G_i).
        hessian_excess: λ_max(∇²_ii h - ℍ_i) / λ_max(ℍ_i): if positive, ℍ_i does not bound the layer's own Hessian.
        output_curvature: what arrived at the layer's output as one number per sample: L_i, or λ_max(R_i R_iᵀ) for
            factor; the mean over samples.
    """

    curvature: str
    layer: int
    random_ratio: float
    gradient_ratio: float
    random_hessian_ratio: float
    gradient_hessian_ratio: float
    largest_ratio: float
    hessian_excess: float
    output_curvature: float

    @property
    def is_bound(self) -> bool:
        """Whether ℍ_i bounds the layer's own Hessian, as far as Lanczos can tell; a False is certain."""
        return self.hessian_excess <= ROUNDING


def measure_tightness(
    pipeline: InProcessPipeline, inputs: Tensor, targets: Tensor, options: Options, *,
    directions: int, lanczos_steps: int,
) -> list[LayerTightness]:  # fmt: skip
    """Every layer under every curvature, at the network's current parameters.

    Args:
        pipeline: with the network.
        inputs: a batch.
        targets: of the batch.
        options: δ, blocks, how λ_max(H_zz) is found; and the seed of the directions.
        directions: random ones, the same for every curvature.
        lanczos_steps: products spent on each λ_max of ℍ_i and G_i.
    """
    exact = expand(pipeline, inputs, targets, replace(options, curvature="factor")).blocks
    hessians = list(_block_hessians(pipeline, inputs, targets, exact))
    truths = [
        _truth(own, hessian, directions, lanczos_steps, options.seed)
        for own, hessian in zip(exact, hessians, strict=True)
    ]
    found = []
    for curvature in CURVATURES:
        blocks = expand(pipeline, inputs, targets, replace(options, curvature=curvature)).blocks
        for layer, (own, truth) in enumerate(zip(blocks, truths, strict=True), start=1):
            found.append(_compare(curvature, layer, own, truth, lanczos_steps))
    return found


@dataclass(frozen=True)
class _Truth:
    """A layer's actual curvature: vᵀGv and vᵀ∇²_ii h v along the gradient, then along random directions."""

    directions: Tensor
    gauss_newton: Tensor
    hessian: Tensor
    largest: float
    hessian_product: Product


def _truth(own: LocalBlock, hessian: Product, count: int, lanczos_steps: int, seed: int) -> _Truth:
    directions = _directions(own, count, seed)
    gauss_newton = torch.stack([v.dot(own.product(v)) for v in directions]) / own.loss.inflation
    along = torch.stack([v.dot(hessian(v)) for v in directions])
    largest = largest_eigenvalue(own.product, directions[0], lanczos_steps) / own.loss.inflation
    return _Truth(directions, gauss_newton, along, largest, hessian)


def _compare(curvature: str, layer: int, own: LocalBlock, truth: _Truth, lanczos_steps: int) -> LayerTightness:
    claimed = torch.stack([v.dot(own.product(v)) for v in truth.directions])
    largest = largest_eigenvalue(own.product, truth.directions[0], lanczos_steps)
    excess = largest_eigenvalue(lambda v: truth.hessian_product(v) - own.product(v), truth.directions[0], lanczos_steps)
    return LayerTightness(
        curvature=curvature,
        layer=layer,
        random_ratio=float(claimed[1:].sum() / truth.gauss_newton[1:].sum()),
        gradient_ratio=float(claimed[0] / truth.gauss_newton[0]),
        random_hessian_ratio=float(claimed[1:].sum() / truth.hessian[1:].sum()),
        gradient_hessian_ratio=float(claimed[0] / truth.hessian[0]),
        largest_ratio=largest / truth.largest,
        hessian_excess=excess / largest,
        output_curvature=_output_curvature(own),
    )


def _directions(own: LocalBlock, count: int, seed: int) -> Tensor:
    """The gradient, then random directions, (1 + count, P)."""
    gradient = own.loss.gradient
    generator = torch.Generator(gradient.device).manual_seed(seed)
    drawn = torch.randn(count, len(gradient), generator=generator, dtype=gradient.dtype, device=gradient.device)
    return torch.cat([gradient.unsqueeze(0), drawn])


def _block_hessians(
    pipeline: InProcessPipeline, inputs: Tensor, targets: Tensor, blocks: Sequence[LocalBlock]
) -> Iterator[Product]:
    """Products with ∇²_ii h of every block, by differentiating plain backpropagation once more."""
    state = inputs
    for stage in pipeline.stages:
        state = stage.output(state)
    value = pipeline.loss.sample_losses(state, targets).mean()
    for own in blocks:
        leaves = [leaf for layer in own.block.layers for leaf in layer.parameters.values()]
        gradients = torch.autograd.grad(value, leaves, create_graph=True)
        yield partial(_pull, flatten(gradients), leaves)


def _pull(gradient: Tensor, leaves: Sequence[Tensor], direction: Tensor) -> Tensor:
    return flatten(torch.autograd.grad(gradient, leaves, direction, retain_graph=True))


def _output_curvature(own: LocalBlock) -> float:
    values = own.output[0]
    if values.dim() == 1:
        return float(values.mean())
    columns = values.flatten(2)
    gram = torch.einsum("knd,lnd->nkl", columns, columns)
    return float(torch.linalg.eigvalsh(gram)[:, -1].mean())
