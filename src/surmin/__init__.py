"""Train neural networks split over devices with Surrogate Minimization."""

from surmin.losses import ConvexLoss, CrossEntropy, GradientOracle, LogisticLoss, SquaredError
from surmin.minimizer import SurrogateMinimizer
from surmin.report import StepReport
from surmin.stages.partition import partition

__all__ = [
    "ConvexLoss",
    "CrossEntropy",
    "GradientOracle",
    "LogisticLoss",
    "SquaredError",
    "StepReport",
    "SurrogateMinimizer",
    "partition",
]
__version__ = "0.1.0"
