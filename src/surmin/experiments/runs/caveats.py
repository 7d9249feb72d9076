"""What the user must know about a resumed run that goes on differently than it would have."""

from collections.abc import Iterator, Mapping
from typing import Any

from surmin.curvature.sampling import part_of, usual_fraction
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.runs.saved import SavedRun
from surmin.methods.base import Method
from surmin.methods.registry import default_option, takes
from surmin.minimizer import SurrogateMinimizer

OTHERWISE = "the rounds to come are not those of the uninterrupted run"
REMEMBERS_SAMPLES = ("dni", "dladmm", "ddg", "features-replay", "fdg")
"""Methods whose state has tensors of a replica's own share of a batch."""


def caveats(
    saved: SavedRun, now: RunConfig, method: Method, options: Mapping[str, Any], batch_size: int
) -> Iterator[str]:
    """One line for each reason.

    Args:
        saved: the run so far.
        now: the options it continues with.
        method: the one that continues it.
        options: those it was built with.
        batch_size: samples per round, over all replicas.
    """
    before, device_type = saved.config, method.pipeline.device.type
    draws = _draws(now.method, method, options, batch_size)
    if draws and before.replicas != now.replicas:
        yield (
            f"resumed with {now.replicas} replicas, not {before.replicas}: each draws the samples and columns of its "
            f"curvature from its own share of the batch, so that {OTHERWISE}"
        )
    if saved.device_type not in (None, device_type) and (draws or _starts_at_random(method)):
        yield f"resumed on {device_type}, not {saved.device_type}: random numbers differ there, so that {OTHERWISE}"
    if now.method in REMEMBERS_SAMPLES and (before.replicas > 1 or (now.method == "dladmm" and now.replicas > 1)):
        yield f"{now.method} remembers samples, and a checkpoint has those of one replica alone, so that {OTHERWISE}"
    if before.stages != now.stages and isinstance(method, SurrogateMinimizer) and method.options.blocks == "stage":
        yield f"resumed with {now.stages} stages, not {before.stages}: every stage is a block, so that {OTHERWISE}"


def _draws(name: str, method: Method, options: Mapping[str, Any], batch_size: int) -> bool:
    """Whether samples or columns are drawn, by every replica its own."""
    if isinstance(method, SurrogateMinimizer):
        own = method.options
        inner = own.inner_fraction or usual_fraction(part_of(batch_size, own.curvature_fraction))
        return own.curvature == "factor" and (own.curvature_fraction < 1 or own.rank is not None or inner < 1)
    if not takes(name, "curvature_fraction"):
        return False
    fraction = options.get("curvature_fraction", default_option(name, "curvature_fraction"))
    return bool(fraction < 1 or options.get("rank") is not None)


def _starts_at_random(method: Method) -> bool:
    """Whether the eigenvalues in its curvature are computed from a random vector, the same on all replicas."""
    return isinstance(method, SurrogateMinimizer) and method.options.curvature != "factor"
