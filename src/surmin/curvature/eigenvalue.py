"""Largest eigenvalues of many symmetric matrices at once, each known only through products with vectors."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from surmin.curvature.shapes import flat_outputs, spread_over
from surmin.scaling import norms

BatchedProduct = Callable[[Tensor], Tensor]


def power_iteration(product: BatchedProduct, start: Tensor, steps: int, again: AbstractContextManager[None]) -> Tensor:
    """Estimate λ_max of each of n symmetric matrices, from below.

    Args:
        product: (n, *in) to (n, *in), row j multiplied by matrix j.
        start: starting vectors (n, *in), not zero.
        steps: products; the Rayleigh quotient after the last one is returned. If it is negative, the iteration found
            the other end of the spectrum, and a second one on the shifted matrices finds λ_max.
        again: entered for that second one, which not every batch needs.

    Returns:
        One estimate per matrix, shape (n,).
    """
    estimate = _rayleigh_after(product, start, steps)
    if bool((estimate < 0).any()):
        shift = estimate.abs()
        spread = spread_over(shift, start)
        with again:
            shifted = _rayleigh_after(lambda v: product(v) + spread * v, start, steps) - shift
        estimate = torch.where(estimate < 0, shifted, estimate)  # a matrix's estimate does not depend on its neighbours
    return estimate


def lanczos(product: BatchedProduct, start: Tensor, steps: int) -> Tensor:
    """λ_max of n symmetric matrices by Lanczos with full reorthogonalization; arguments as in `power_iteration`.

    NaN if a product was not finite.
    """
    n = len(start)
    shape = start.shape
    steps = min(steps, start[0].numel())
    basis = _normalize(start).reshape(n, 1, -1)
    projected = start.new_zeros(n, steps, steps)
    scale = start.new_zeros(n, 1)
    for step in range(steps):
        image = product(basis[:, step].reshape(shape)).reshape(n, -1)
        coefficients = torch.einsum("nkd,nd->nk", basis, image)
        projected[:, : step + 1, step] = coefficients
        projected[:, step, : step + 1] = coefficients
        scale = torch.maximum(scale, norms(image).unsqueeze(1))
        for _ in range(2):
            image = image - torch.einsum("nkd,nk->nd", basis, torch.einsum("nkd,nd->nk", basis, image))
        if step + 1 < steps:
            # In an invariant space only rounding is left, which would not be an orthogonal direction: take none.
            is_new = norms(image).unsqueeze(1) > torch.finfo(image.dtype).eps ** 0.5 * scale
            basis = torch.cat([basis, torch.where(is_new, _normalize(image), 0).unsqueeze(1)], dim=1)
    missing = basis.norm(dim=2) == 0
    projected += torch.diag_embed(missing * projected[:, :1, 0])  # a value no larger than λ_max
    finite = projected.isfinite().flatten(1).all(1)
    largest = torch.linalg.eigvalsh(torch.where(finite[:, None, None], projected, 0.0))[:, -1]
    return torch.where(finite, largest, torch.nan)


def _rayleigh_after(product: BatchedProduct, start: Tensor, steps: int) -> Tensor:
    vector = _normalize(start)
    quotient = start.new_zeros(len(start))
    for _ in range(steps):
        image = product(vector)
        quotient = flat_outputs(vector * image, 1).sum(1)
        vector = _normalize(image)
    return quotient


def _normalize(vectors: Tensor) -> Tensor:
    lengths = norms(flat_outputs(vectors, 1)).clamp_min(torch.finfo(vectors.dtype).tiny)
    return vectors / spread_over(lengths, vectors)
