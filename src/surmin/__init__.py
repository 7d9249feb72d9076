"""Train neural networks split over devices with Surrogate Minimization."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surmin.checkpoints.saving import load_checkpoint, load_parameters, save_checkpoint
    from surmin.losses import ConvexLoss, CrossEntropy, GradientOracle, LogisticLoss, SquaredError
    from surmin.methods.base import Method
    from surmin.methods.registry import build_method
    from surmin.minimizer import SurrogateMinimizer
    from surmin.options import Options
    from surmin.pipeline.distributed import Pipeline
    from surmin.report import StepReport
    from surmin.stages.partition import partition

__all__ = [
    "ConvexLoss",
    "CrossEntropy",
    "GradientOracle",
    "LogisticLoss",
    "Method",
    "Options",
    "Pipeline",
    "SquaredError",
    "StepReport",
    "SurrogateMinimizer",
    "build_method",
    "load_checkpoint",
    "load_parameters",
    "partition",
    "save_checkpoint",
]
__version__ = "0.1.0"

_MODULES = {
    **dict.fromkeys(["ConvexLoss", "CrossEntropy", "GradientOracle", "LogisticLoss", "SquaredError"], "losses"),
    "SurrogateMinimizer": "minimizer",
    "Options": "options",
    "Method": "methods.base",
    "build_method": "methods.registry",
    "Pipeline": "pipeline.distributed",
    "StepReport": "report",
    "partition": "stages.partition",
    **dict.fromkeys(["load_checkpoint", "load_parameters", "save_checkpoint"], "checkpoints.saving"),
}


def __getattr__(name: str) -> Any:
    """Import public names and modules on first use, so that `surmin --help` need not wait for torch."""
    if name in _MODULES:
        return getattr(import_module(f"surmin.{_MODULES[name]}"), name)
    if not name.startswith("_") and find_spec(f"surmin.{name}"):
        return import_module(f"surmin.{name}")
    raise AttributeError(f"module 'surmin' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Include public names that have not been used yet."""
    return sorted({*globals(), *__all__})
