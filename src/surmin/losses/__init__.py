"""Convex losses ℓ of a network's output: value, gradient, smoothness constant and curvature factor.

Shapes. `outputs` is (n, *positions, classes) with any number of positions per sample (tokens, pixels), classes last.
A sample's loss is the mean over its positions, so that the mean over samples equals the mean over all positions.

Units. Everything here is *per sample*: row j of `gradient` is ∇ℓ_j, and Σ_c S_cj S_cjᵀ = ∇²ℓ_j. The factor 1/n of the
mean loss h = (1/n) Σ_j ℓ_j is applied where a sum over samples is taken, never here.
"""

from surmin.losses.convex_loss import ConvexLoss
from surmin.losses.cross_entropy import CrossEntropy
from surmin.losses.gradient_oracle import GradientOracle
from surmin.losses.logistic_loss import LogisticLoss
from surmin.losses.squared_error import SquaredError

__all__ = ["ConvexLoss", "CrossEntropy", "GradientOracle", "LogisticLoss", "SquaredError"]
