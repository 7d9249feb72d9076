"""Train neural networks split over devices with Surrogate Minimization."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surmin.checkpoints.saving import load_checkpoint, save_checkpoint
    from surmin.losses import ConvexLoss, CrossEntropy, GradientOracle, LogisticLoss, SquaredError
    from surmin.minimizer import SurrogateMinimizer
    from surmin.pipeline.distributed import Pipeline
    from surmin.report import StepReport
    from surmin.stages.partition import partition

__all__ = [
    "ConvexLoss",
    "CrossEntropy",
    "GradientOracle",
    "LogisticLoss",
    "Pipeline",
    "SquaredError",
    "StepReport",
    "SurrogateMinimizer",
    "load_checkpoint",
    "partition",
    "save_checkpoint",
]
__version__ = "0.1.0"

_MODULES = {
    **dict.fromkeys(["ConvexLoss", "CrossEntropy", "GradientOracle", "LogisticLoss", "SquaredError"], "losses"),
    "SurrogateMinimizer": "minimizer",
    "Pipeline": "pipeline.distributed",
    "StepReport": "report",
    "partition": "stages.partition",
    **dict.fromkeys(["load_checkpoint", "save_checkpoint"], "checkpoints.saving"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `surmin --help` need not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'surmin' has no attribute {name!r}")
    return getattr(import_module(f"surmin.{_MODULES[name]}"), name)
