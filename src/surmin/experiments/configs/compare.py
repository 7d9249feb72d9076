"""What a comparison is: several methods on one problem, as options of the command line. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tyro.conf import Fixed, Suppress, arg

from surmin.experiments.configs.choices import parse_methods
from surmin.experiments.configs.run import ExperimentConfig
from surmin.methods.registry import METHODS
from surmin.pipeline.schedule_names import ScheduleName


@dataclass(frozen=True, kw_only=True)
class CompareConfig(ExperimentConfig):
    """Several methods on the same problem; per seed, all start from the same network and see the same batches.

    A method option goes to the methods that take it.

    Attributes:
        lr: learning rates to try, separated by commas, for all methods that take one, or METHOD=RATES for one; several
            of these separated by spaces.
        seeds: number of seeds, counting up from --seed.
    """

    command: ClassVar[str] = "compare"

    methods: Annotated[
        str, arg(help=f"names separated by commas, or all: {', '.join(METHODS)}; or module:builder of your own.")
    ] = "sm,adam,gd-armijo"
    lr: tuple[str, ...] = ()
    seeds: int = 1
    schedule: Annotated[ScheduleName, Suppress, Fixed] = "posted"
    timeout: Annotated[float, Suppress, Fixed] = 300.0

    @property
    def takes_all(self) -> bool:
        """Whether all methods that can run are meant."""
        return self.methods.strip() == "all"

    @property
    def method_names(self) -> list[str]:
        """All that are meant, each once."""
        return parse_methods(self.methods)

    def check(self) -> None:
        """As every experiment; methods and learning rates are checked where the runs are planned."""
        super().check()
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        if self.workers > 1:
            raise ValueError(
                "surmin compare runs in one process and counts what workers would send: leave workers at 1"
            )
