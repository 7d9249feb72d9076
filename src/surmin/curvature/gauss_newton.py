"""The Gauss-Newton matrix that the output curvature leaves in one block, as products with it.

Legend: R columns of a sample's output curvature, (k, q, *out) for q sampled rows; G_i = (1/n) Σ_j J_θᵀ R_j R_jᵀ J_θ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from surmin.curvature.shapes import flat_outputs, spread_over
from surmin.stages.generic import GenericAtPoint
from surmin.stages.layer import Layer, LayerAtPoint
from surmin.stages.linearize import linearize
from surmin.stages.tape import joined

CACHED_NUMBERS = 1 << 20
"""Numbers that stay in a CPU's cache between two uses."""


@dataclass(frozen=True)
class FactorPiece:
    """One layer of a block: the layer linearized at its inputs, and R at its output, both on the same rows."""

    layer: Layer
    parameters: Mapping[str, Tensor]
    inputs: Tensor
    columns: Tensor

    @cached_property
    def point(self) -> LayerAtPoint:
        """The layer at its point."""
        return linearize(self.layer, self.inputs, self.parameters)

    def lift(self, coefficients: Tensor) -> Tensor:
        """J_θᵀ R c: (k, q) to a flat vector."""
        return self.point.parameter_vjp(weighted_sum(self.columns, coefficients))


class GaussNewton:
    """G of one block. Its layers share the coefficients c = Σ_layers Rᵀ J_θ v, so couplings within it are exact."""

    def __init__(self, pieces: list[FactorPiece], samples: int) -> None:
        self.pieces = pieces
        self.sizes = [piece.layer.size for piece in pieces]
        self.samples = samples

    def record(self) -> None:
        """Record the layers that have no closed form."""
        for piece in self.pieces:
            if isinstance(piece.point, GenericAtPoint):
                piece.point.record()

    def product(self, direction: Tensor) -> Tensor:
        """G v = (1/n) Σ_j J_θᵀ R_j R_jᵀ J_θ v."""
        parts = direction.split(self.sizes)
        tangents = [piece.point.parameter_jvp(part) for piece, part in zip(self.pieces, parts, strict=True)]
        cotangents = _through_factor([piece.columns for piece in self.pieces], tangents)
        pulled = [piece.point.parameter_vjp(own) for piece, own in zip(self.pieces, cotangents, strict=True)]
        return joined(pulled).div_(self.samples)

    @classmethod
    def join(cls, parts: Sequence["GaussNewton"]) -> "GaussNewton":
        """G over the rows of all parts, joined so that a product is one pass over them."""
        by_layer = zip(*(part.pieces for part in parts), strict=True)
        return cls([_join(pieces) for pieces in by_layer], parts[0].samples)


def projection(columns: Tensor, tangents: Tensor) -> Tensor:
    """Rᵀ t: columns (k, q, *out) and tangents (q, *out) to (k, q), one pass over the columns."""
    flat, rows = flat_outputs(columns, 2), flat_outputs(tangents, 1)
    if columns.is_cuda:
        return torch.linalg.vecdot(flat, rows)
    return torch.bmm(rows.unsqueeze(1), flat.permute(1, 2, 0)).squeeze(1).t()


def weighted_sum(columns: Tensor, coefficients: Tensor) -> Tensor:
    """R c: columns (k, q, *out) and coefficients (k, q) to (q, *out), one pass over the columns."""
    weights = spread_over(coefficients, columns)
    if columns.is_cuda:
        return (columns * weights).sum(0)
    total = columns[0] * weights[0]
    for column, weight in zip(columns[1:], weights[1:], strict=True):
        total.addcmul_(column, weight)
    return total


def _through_factor(columns: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
    """R_l Σ_m R_mᵀ t_m for every layer l, a few samples at a time: the columns are read from memory once, not twice.

    On a GPU, where each kernel has to be launched, all samples at once.
    """
    per_sample = sum(own[:, 0].numel() for own in columns if own.shape[1])
    step = max(1, len(tangents[0])) if columns[0].is_cuda else max(1, CACHED_NUMBERS // max(1, per_sample))
    parts = zip(*(own.split(step, dim=1) for own in columns), strict=True)
    rows = zip(*(tangent.split(step) for tangent in tangents), strict=True)
    found = [_through_few(own, tangent) for own, tangent in zip(parts, rows, strict=True)]
    return [joined(own) for own in zip(*found, strict=True)]


def _through_few(columns: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
    """The same for all samples at once."""
    coefficients = projection(columns[0], tangents[0])
    for own, tangent in zip(columns[1:], tangents[1:], strict=True):
        coefficients += projection(own, tangent)
    return [weighted_sum(own, coefficients) for own in columns]


def _join(pieces: Sequence[FactorPiece]) -> FactorPiece:
    """One layer on the rows of all its pieces."""
    if len(pieces) == 1:
        return pieces[0]
    inputs = torch.cat([piece.inputs for piece in pieces])
    columns = torch.cat([piece.columns for piece in pieces], dim=1)
    return replace(pieces[0], inputs=inputs, columns=columns)
