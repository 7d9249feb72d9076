"""Second moments of a layer's inputs and columns, from which the Kronecker preconditioner is built.

Legend: C the mean outer product of the layer's inputs (1 appended for the bias), Ĝ that of the curvature columns at its
output, k columns per sample, J_θ the output's Jacobian in the layer's parameters, P of them, n samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.curvature.gauss_newton import FactorPiece, GaussNewton
from surmin.curvature.input_moment import FirstInput, gram, input_moment
from surmin.replicas import ONE_REPLICA, Replicas
from surmin.stages.layer import KroneckerPoint


@dataclass(frozen=True)
class KroneckerMoments:
    """C and Ĝ of one layer. `bias` says whether the layer's flat vector ends with a bias, C's last row."""

    inputs: Tensor
    outputs: Tensor
    bias: bool


@dataclass(frozen=True)
class MeanDiagonal:
    """The stand-in for a layer without Kronecker structure: the mean of G's diagonal over its `size` parameters."""

    mean: Tensor
    size: int


Moments = KroneckerMoments | MeanDiagonal


def estimate_moments(
    curvature: GaussNewton, first: FirstInput | None, seed: int, replicas: Replicas = ONE_REPLICA
) -> list[Moments]:
    """One entry per trainable layer of a block.

    Args:
        curvature: the block's Gauss-Newton matrix.
        first: the whole input of the network's first trainable layer, for its block; None for any other block.
        seed: seed of the random signs used for layers without Kronecker structure.
        replicas: which all are averaged over.
    """
    moments: list[Moments] = []
    for position, piece in enumerate(curvature.pieces):
        point = piece.point
        if isinstance(point, KroneckerPoint):
            known = None
            if position == 0 and first is not None:
                known = first.moment(curvature.samples, point.kronecker_rows)
            moments.append(_kronecker(point, piece.columns, known, curvature.samples, replicas))
        else:
            moments.append(_mean_diagonal(piece, curvature.samples, seed, replicas))
    return moments


def _kronecker(
    point: KroneckerPoint, columns: Tensor, known_inputs: Tensor | None, samples: int, replicas: Replicas
) -> KroneckerMoments:
    inputs = known_inputs
    if inputs is None:
        inputs = replicas.mean(input_moment([point.kronecker_rows(point.inputs)]))
    outputs = replicas.mean(gram([point.kronecker_columns(columns)]) / samples)
    return KroneckerMoments(inputs if point.has_bias else inputs[:-1, :-1], outputs, point.has_bias)


def _mean_diagonal(piece: FactorPiece, samples: int, seed: int, replicas: Replicas) -> MeanDiagonal:
    """Tr G / P by one random-sign probe: E‖Σ_jk ε_jk J_θᵀ r_jk‖² = n tr G."""
    size = piece.layer.size
    generator = torch.Generator(piece.columns.device).manual_seed(replicas.own_seed(seed))
    signs = piece.columns.new_empty(piece.columns.shape[:2]).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    own = piece.lift(signs).square().sum() / (samples * size)
    return MeanDiagonal(replicas.mean(own), size)
