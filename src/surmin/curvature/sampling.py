"""Which samples carry the curvature when only a fraction of the batch does."""

import torch
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.curvature.shapes import flat_outputs, spread_over

SHARE = 0.8
"""The part of the draws that follows the curvature; the rest is uniform, so weights stay below 1 / (1 - share)."""
MODEL_SAMPLES = 400
"""Samples for the model of one of several inner steps: more of them cost time and save no rounds."""


def importance_rows(traces: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `count` samples, preferring those whose loss is most curved, by systematic sampling in random order.

    A sample that the network already fits has almost no curvature: drawing such samples wastes their share of the work
    and leaves the others unbounded. Sample j is drawn with probability
    p_j = share · trace_j / Σ trace + (1 - share) / n, where the share is `SHARE`; one with `count` · p_j ≥ 1 always is.
    The order is random because in data order the equally spaced draws would hit any periodicity.

    Args:
        traces: tr ∇²ℓ_j of every sample, (n,).
        count: how many to draw; a very curved sample can be drawn twice.
        generator: source of the random order and of the draws' offset in it.

    Returns:
        Indices (count,) in ascending order, and weights 1 / (n p_j) with which the sampled mean is unbiased.
    """
    n = len(traces)
    total = traces.sum()
    uniform = torch.full_like(traces, 1 / n)
    p = torch.where(total > 0, SHARE * traces / total.clamp_min(torch.finfo(traces.dtype).tiny), SHARE * uniform)
    p = p + (1 - SHARE) * uniform
    order = torch.randperm(n, generator=generator, device=generator.device).to(traces.device)
    offset = torch.rand(1, generator=generator, dtype=torch.float64, device=generator.device).to(traces.device)
    points = (torch.arange(count, device=traces.device) + offset) / count
    cumulative = p[order].double().cumsum(0)
    places = torch.searchsorted(cumulative / cumulative[-1], points).clamp_max(n - 1)
    rows = order[places].sort().values
    return rows, 1 / (n * p[rows])


def traces_of(columns: Tensor) -> Tensor:
    """tr R_j R_jᵀ of every sample, (q,)."""
    return torch.linalg.vector_norm(flat_outputs(columns, 2), dim=2).square().sum(0)


def thinned(message: Message, traces: Tensor, fraction: float, seed: int) -> Message:
    """A part of a message's samples, drawn by their curvature, with the columns scaled to stand for all.

    Args:
        message: columns R (k, q, *out), and the rows of the batch they belong to (left out: all).
        traces: of the columns.
        fraction: of the samples.
        seed: of the draw.
    """
    columns, *rows = message
    generator = torch.Generator(columns.device).manual_seed(seed)
    drawn, weights = importance_rows(traces, part_of(len(traces), fraction), generator)
    return weighted(columns.index_select(1, drawn), weights), (rows[0][drawn] if rows else drawn)


def weighted(columns: Tensor, weights: Tensor) -> Tensor:
    """√weight · R_j of every sample."""
    return columns * spread_over(weights.sqrt().unsqueeze(0), columns)


def part_of(samples: int, fraction: float) -> int:
    """How many samples a fraction is, at least one."""
    return max(1, round(fraction * samples))


def usual_fraction(samples: int) -> float:
    """The fraction of the samples that gives `MODEL_SAMPLES`, at most all."""
    return min(1.0, MODEL_SAMPLES / samples)
