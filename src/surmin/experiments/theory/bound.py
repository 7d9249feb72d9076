"""How often the sum of local losses fails to bound the loss, over random steps of all blocks together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.experiments.theory.decoupled import DecoupledBlock
from surmin.experiments.theory.dense import DenseNetwork
from surmin.options import Options

ROUNDING = 1e-13
"""Relative difference of two float64 losses that does not count as a failure."""


@dataclass(frozen=True)
class BoundCheck:
    """Steps of one length.

    Attributes:
        radius: ‖d‖ / ‖θ‖.
        trials: random steps tried.
        failures: how many of them had h(θ + d) > h + Σ_i L_i(d_i).
        worst_excess: the largest h(θ + d) - h - Σ_i L_i(d_i), negative if the bound held with room.
    """

    radius: float
    trials: int
    failures: int
    worst_excess: float


@torch.no_grad()
def check_bound(
    dense: DenseNetwork, found: Sequence[DecoupledBlock], radii: Sequence[float], trials: int, options: Options
) -> tuple[BoundCheck, ...]:
    """One entry per radius; directions are uniform on the sphere, the same for every radius.

    Raises:
        ValueError: for a radius at which the loss or its bound is not finite.
    """
    start = [block.vector() for block in dense.blocks]
    norm = torch.cat(start).norm()
    here = float(dense.value(start))
    checks = []
    for radius in radii:
        generator = torch.Generator().manual_seed(options.seed)
        directions = (_direction(start, generator) for _ in range(trials))
        excesses = [_excess(dense, found, start, here, radius * norm, own, options.cubic) for own in directions]
        if not all(map(math.isfinite, excesses)):
            raise ValueError(f"radius {radius:g}: the loss or its bound is not finite so far away; try smaller radii")
        failures = sum(excess > ROUNDING * max(1.0, abs(here)) for excess in excesses)
        checks.append(BoundCheck(float(radius), trials, failures, max(excesses)))
    return tuple(checks)


def _direction(like: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    parts = [torch.randn(len(part), generator=generator, dtype=torch.float64).to(part.device) for part in like]
    norm = torch.cat(parts).norm()
    return [part / norm for part in parts]


def _excess(
    dense: DenseNetwork, found: Sequence[DecoupledBlock], start: Sequence[Tensor], here: float, length: Tensor,
    direction: Sequence[Tensor], cubic: float,
) -> float:  # fmt: skip
    step = [length * part for part in direction]
    there = dense.value([point + part for point, part in zip(start, step, strict=True)])
    change = torch.stack([block.local_loss(step[block.position], cubic) for block in found]).sum()
    return float((there - here) - change)
