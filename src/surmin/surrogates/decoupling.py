"""Decoupling of blocks by Lemma 1: the inflation of each block's curvature that makes local losses sum to a bound."""

import math
from collections.abc import Sequence


def uniform_decoupling(blocks: int) -> list[float]:
    """κ_i = m for every one of m blocks: δ_i = 1/(i - 1) makes the product of Lemma 1's factors telescope."""
    return [float(blocks)] * blocks


def check_decoupling(kappas: Sequence[float], blocks: int) -> list[float]:
    """The user's κ_i, checked: one per trainable block, positive, Σ 1/κ_i = 1 (Cauchy-Schwarz).

    Raises:
        ValueError: if their number or the sum does not fit.
    """
    if len(kappas) != blocks:
        raise ValueError(f"decoupling needs one κ per trainable block: got {len(kappas)} for {blocks} blocks")
    if any(not math.isfinite(kappa) or kappa <= 0 for kappa in kappas):
        raise ValueError(f"every κ must be a positive number, got {list(kappas)}")
    total = sum(1 / kappa for kappa in kappas)
    if not math.isclose(total, 1, rel_tol=1e-6):
        raise ValueError(
            f"the κ of all blocks must satisfy Σ 1/κ = 1 for the local losses to bound the loss, got {total:g}"
        )
    return [float(kappa) for kappa in kappas]
