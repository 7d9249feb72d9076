"""Surrogate Minimization as a method: the minimizer itself, built from the command line's options."""

from typing import Any

from surmin.minimizer import SurrogateMinimizer
from surmin.pipeline.worker_pipeline import WorkerPipeline


def surrogate_minimization(pipeline: WorkerPipeline, **options: Any) -> SurrogateMinimizer:
    """`SurrogateMinimizer` with a preset and options over it."""
    return SurrogateMinimizer(pipeline, **options)


def paper(pipeline: WorkerPipeline, **options: Any) -> SurrogateMinimizer:
    """Appendix A, with exact products and the smoothness that softmax cross-entropy has."""
    return SurrogateMinimizer(pipeline, preset="paper", **options)
