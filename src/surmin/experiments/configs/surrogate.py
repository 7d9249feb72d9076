"""The options of sm that several commands take. Importing this imports no torch."""

from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """How sm, and methods of its kind, build their local losses; None leaves the method's own default.

    Attributes:
        preset: of sm: compute (least time where trips are cheap), links (half the bytes), trips (fewest trips
            and bytes; for slow links) or paper.
        curvature: of sm: what goes down the pipe, factor, sample or scalar.
        local: of sm: local losses that are quadratic or nonlinear.
        order: of sm: stages solve in parallel, or sequential, each when the moved activations reach it.
        blocks: of sm: what gets a local loss of its own, a layer or a stage.
        rank: of sm with factor curvature, kfac and cgblock-ggn: random columns per sample, or exact for the whole
            factor; if not given 2 for tokens, 32 for more than 64 classes, and exact otherwise.
        curvature_fraction: of sm with factor curvature, kfac and cgblock-ggn: part of the batch that carries it.
        inner_fraction: of sm with nonlinear local losses: part of those samples that each inner step is modelled on.
        inner_tolerance: of sm with nonlinear local losses: they end at a step that gains less than this
            part of what is left.
        damping: first value of λ of sm, kfac and cgblock-ggn; λ of cgblock, newton and locoprop.
        damping_candidates: of sm: multiples of λ, separated by spaces, that are solved for and tried in one wave.
        wire: of sm: the type that curvature columns are rounded to on their way between workers.
        delta: of sm with scalar or sample curvature, and sm-paper: δ of Appendix A.
    """

    preset: Literal["compute", "links", "trips", "paper"] | None = None
    curvature: Literal["factor", "sample", "scalar"] | None = None
    local: Literal["quadratic", "nonlinear"] | None = None
    order: Literal["parallel", "sequential"] | None = None
    blocks: Literal["layer", "stage"] | None = None
    rank: int | Literal["exact"] | None = None
    curvature_fraction: float | None = None
    inner_fraction: float | None = None
    inner_tolerance: float | None = None
    damping: float | None = None
    damping_candidates: tuple[float, ...] | None = None
    wire: Literal["bfloat16", "float16", "int8"] | None = None
    delta: float | None = None

    def check_effects(self) -> None:
        """Raise ValueError for an option that does nothing to sm with its curvature."""
        curvature = self.curvature or ("scalar" if self.preset == "paper" else "factor")
        is_factor = curvature == "factor"
        idle = ["delta"] if is_factor else ["rank", "curvature_fraction"]
        others = "scalar or sample" if is_factor else "factor"
        for option in idle:
            if getattr(self, option) is not None:
                raise ValueError(
                    f"{option} does nothing with curvature {curvature}: leave it out, or choose --curvature {others}"
                )


EXACT = "exact"
"""The rank that asks for no random columns."""

SURROGATE_OPTIONS = tuple(field.name for field in fields(SurrogateConfig))
