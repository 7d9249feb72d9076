"""The options of sm that several commands take. Importing this imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from surmin.methods.registry import takes


@dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """How sm, and methods of its kind, build their local losses; None leaves the method's own default.

    Attributes:
        preset: of sm: compute (least time where trips are cheap), links (half the bytes), trips (fewest trips
            and bytes; for slow links) or paper.
        curvature: of sm: what goes down the pipe, factor, sample or scalar.
        local: of sm: quadratic or nonlinear local losses.
        order: of sm: stages solve in parallel, or sequential, each when the moved activations reach it.
        blocks: of sm: what gets its own local loss, a layer or a stage.
        rank: of sm with factor curvature, kfac and cgblock-ggn: random columns per sample, or exact for the whole
            factor; if not given, 2 for tokens, 32 for more than 64 classes, and exact otherwise.
        curvature_fraction: of sm with factor curvature, kfac and cgblock-ggn: fraction of the batch that carries it.
        inner_fraction: of sm with nonlinear local losses: fraction of those samples used to build each inner step's
            model.
        inner_tolerance: of sm with nonlinear local losses: stop after an inner step that lowers the local loss by less
            than this fraction.
        damping: first value of λ of sm, kfac and cgblock-ggn; λ of cgblock, newton and locoprop.
        damping_candidates: of sm: multiples of λ, separated by spaces, solved for and tried in one wave.
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

    @property
    def method_names(self) -> Sequence[str]:
        """The methods that are given these options."""
        return ["sm"]

    def has_effect(self, option: str, method: str) -> bool:
        """Whether a method takes an option; sm only if it does something with sm's curvature."""
        return takes(method, option) and not (method == "sm" and option in idle_options(self.preset, self.curvature))

    def check_effects(self) -> None:
        """Raise ValueError if an option does nothing with sm's curvature, and no other method takes it."""
        methods = self.method_names
        if "sm" not in methods:
            return
        curvature = curvature_of(self.preset, self.curvature)
        others = "scalar or sample" if curvature == "factor" else "factor"
        for option in idle_options(self.preset, self.curvature):
            if getattr(self, option) is not None and not any(self.has_effect(option, name) for name in methods):
                raise ValueError(
                    f"{option} does nothing with curvature {curvature}: leave it out, or choose --curvature {others}"
                )


def curvature_of(preset: str | None, curvature: str | None) -> str:
    """The curvature that sm has with these options."""
    return curvature or ("scalar" if preset == "paper" else "factor")


def idle_options(preset: str | None, curvature: str | None) -> tuple[str, ...]:
    """Options that do nothing with the curvature that sm then has."""
    return ("delta",) if curvature_of(preset, curvature) == "factor" else ("rank", "curvature_fraction")


EXACT = "exact"
"""The rank that asks for no random columns."""

SURROGATE_OPTIONS = tuple(field.name for field in fields(SurrogateConfig))
