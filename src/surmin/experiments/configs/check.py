"""Options of `surmin check`. Importing this imports no torch, so that options can be refused at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from surmin.experiments.configs.problem import ProblemConfig, values_of
from surmin.experiments.configs.ranges import check_most
from surmin.experiments.configs.run import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class CheckConfig(ProblemConfig):
    """A small network on a few samples: everything is compared with dense matrices.

    Attributes:
        train_samples: the batch is this many training samples, the first ones.
        stages: parts the network is cut into.
        curvature: what goes down the pipe, factor, sample or scalar.
        blocks: what gets its own local loss, a layer or a stage.
        delta: with scalar or sample curvature, δ of Appendix A.
        power_steps: with scalar or sample curvature, products spent on the largest eigenvalue.
        eigenvalue: with scalar or sample curvature, by power iteration or by lanczos.
        radii: lengths of the random steps on which the bound is tested, as multiples of the parameters' norm.
        trials: random steps of every length.
        dtype: precision of the package's computations; the references are always float64.
    """

    command: ClassVar[str] = "check"

    train_samples: int = 20
    layers: int = 3
    width: int = 12
    stages: int = 1
    curvature: Literal["factor", "sample", "scalar"] = "factor"
    blocks: Literal["layer", "stage"] = "layer"
    delta: float = 1.0
    power_steps: int = 20
    eigenvalue: Literal["power", "lanczos"] = "power"
    radii: tuple[float, ...] = (0.001, 0.01, 0.1, 0.3, 1.0)
    trials: int = 50
    dtype: Literal["float32", "float64"] = "float64"

    @property
    def experiment(self) -> ExperimentConfig:
        """The same problem in the form the other commands use."""
        return ExperimentConfig(**values_of(self, ProblemConfig), stages=self.stages)

    def check(self) -> None:
        """Raise ValueError for an impossible value, naming the option."""
        self.experiment.check()
        check_most(self)
        check_search(self.radii, self.trials)


def check_search(radii: Sequence[float], trials: int) -> None:
    """Raise ValueError unless the bound can be tested this many times at these radii."""
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    if not radii or not all(0 < radius < math.inf for radius in radii):
        raise ValueError(f"radii must be one or more positive numbers, got {list(radii)}")
