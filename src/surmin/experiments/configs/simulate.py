"""Options of `surmin simulate`. Importing this imports no torch, so that options can be refused at once."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from tyro.conf import arg

from surmin.experiments.configs.choices import parse_rates
from surmin.experiments.configs.lists import counts, names, numbers
from surmin.experiments.configs.problem import ProblemConfig, values_of
from surmin.experiments.configs.ranges import check_least, check_rate
from surmin.experiments.configs.run import ExperimentConfig
from surmin.experiments.configs.surrogate import SURROGATE_OPTIONS, SurrogateConfig
from surmin.methods.registry import flag
from surmin.pipeline.schedule_names import SCHEDULES

SIMULATED = ("sm", "sm-paper", "adam", "sgd", "gd", "gd-armijo", "lbfgs", "cgblock")
"""Methods whose workers all finish a round before any begins the one after the next."""
GRADIENT_STEPS = ("adam", "sgd", "gd")
"""Methods with one forward and one backward wave a round, which can run by any schedule."""
MINI_BATCHES = ("adam", "sgd")
"""Methods trained with all requested batch sizes; the others use the full batch."""
INNER_STEPS = ("sm", "sm-paper", "cgblock")
"""Methods that are given inner steps. L-BFGS has one iteration a round: where rounds end makes no difference to it."""
DEFAULT_RATES = ("adam=0.003,0.01",)
WITH_ZERO_BUBBLE = (*SCHEDULES, "zero-bubble")


@dataclass(frozen=True, kw_only=True)
class SimulateConfig(SurrogateConfig, ProblemConfig):
    """Train with every method in one process, record what its workers do, and compute how long it would take.

    Lists are separated by commas. Every combination of stages, micro-batches and inner steps is trained separately.

    Attributes:
        methods: the first one is compared with the best of the others.
        schedules: of gradient steps: posted (receives posted ahead), gpipe and 1f1b (torch's), zero-bubble (a model).
        latencies: of links, one way, in milliseconds.
        rates: of links, in Mbit/s.
        stages: workers with one stage each; if there are more than layers, middle workers are repeated.
        microbatches: equal parts of the training samples; samples left over are dropped.
        batch_sizes: of adam and sgd, in samples per round; 0, or more than there are, means all of them.
        inner_steps: of sm, sm-paper and cgblock; their own default if not given.
        lr: learning rates to try, separated by commas, for all methods that take one, or METHOD=RATES for one;
            several of these separated by spaces. The one that needs the fewest rounds is used.
        target_loss: training loss to reach.
        rounds: after which a method is given up; on mini-batches, passes over all samples.
        cores: cores that all workers share, with one thread each; one core for each worker if not given.
    """

    command: ClassVar[str] = "simulate"

    methods: Annotated[
        str, arg(help=f"of {', '.join(SIMULATED)}; the first is compared with the best of the others.")
    ] = "sm,adam,lbfgs,cgblock"
    schedules: str = ",".join(WITH_ZERO_BUBBLE)
    latencies: str = "0.1,0.3,1,3,10,30,100"
    rates: str = "10000,1000,100,20"
    stages: str = "4"
    microbatches: str = "1,8"
    batch_sizes: str = "0,256"
    inner_steps: str = ""
    lr: tuple[str, ...] = DEFAULT_RATES
    target_loss: float = 1e-2
    rounds: int = 300
    cores: float | None = None

    @property
    def experiment(self) -> ExperimentConfig:
        """The same problem in the form the other commands use."""
        shared = values_of(self, ProblemConfig, SurrogateConfig)
        return ExperimentConfig(**shared, rounds=self.rounds, target_loss=self.target_loss)

    @property
    def method_names(self) -> list[str]:
        """As given, each once."""
        return names(self.methods)

    def check(self) -> None:
        """Raise ValueError for an impossible value, naming the option."""
        self.experiment.check()
        if len(self.method_names) < 2:
            raise ValueError("methods: name at least two, the first of which is compared with the others")
        for name in self.method_names:
            if name not in SIMULATED:
                raise ValueError(f"methods: {name!r} cannot be simulated; choose from {', '.join(SIMULATED)}")
        if self.lr != DEFAULT_RATES:
            for rates in parse_rates(self.lr, self.method_names).values():
                for rate in filter(None, rates):
                    check_rate("lr", rate, self.dtype)
        for name in names(self.schedules):
            if name not in WITH_ZERO_BUBBLE:
                raise ValueError(f"schedules: unknown {name!r}; choose from {', '.join(WITH_ZERO_BUBBLE)}")
        for option in ("latencies", "rates"):
            numbers(option, getattr(self, option), zero_allowed=option == "latencies")
        for option in ("stages", "microbatches", "inner_steps"):
            counts(option, getattr(self, option), may_be_empty=option == "inner_steps")
        counts("batch_sizes", self.batch_sizes, zero_allowed=True)
        if not names(self.schedules):
            raise ValueError("schedules: name at least one")
        check_least(self, rounds=1)
        if self.cores is not None and not 0 < self.cores < math.inf:
            raise ValueError(f"cores must be a positive number, got {self.cores}")
        if self.cores is not None and self.threads > 1:
            raise ValueError("cores are shared by workers with one thread each: leave --threads or --cores out")
        self.check_effects()
        for option in SURROGATE_OPTIONS:
            if getattr(self, option) is not None and not any(self.has_effect(option, n) for n in self.method_names):
                raise ValueError(f"none of the methods {self.methods} takes {flag(option)}")
        if names(self.inner_steps) and not set(INNER_STEPS) & set(self.method_names):
            raise ValueError(f"inner_steps are for {', '.join(INNER_STEPS)}, none of them is in {self.methods}")

    @property
    def stages_without_1f1b(self) -> list[int]:
        """Requested numbers of stages that exceed the micro-batches, if that schedule is requested."""
        if "1f1b" not in names(self.schedules) or not set(self.method_names) & set(GRADIENT_STEPS):
            return []
        most = max(counts("microbatches", self.microbatches))
        return [count for count in counts("stages", self.stages) if not can_go_by("1f1b", most, count)]

    def has_effect(self, option: str, method: str) -> bool:
        """As above; cgblock is simulated with its default safeguard, which has no damping."""
        return super().has_effect(option, method) and (option, method) != ("damping", "cgblock")

    def options_of(self, method: str) -> dict[str, Any]:
        """The given options that do something in a method, except inner steps and learning rate."""
        given = {name: getattr(self, name) for name in SURROGATE_OPTIONS if self.has_effect(name, method)}
        return {name: value for name, value in given.items() if value is not None}


def can_go_by(schedule: str, microbatches: int, stages: int) -> bool:
    """Whether there are enough micro-batches: 1F1B needs one for every stage."""
    return schedule != "1f1b" or microbatches >= stages
