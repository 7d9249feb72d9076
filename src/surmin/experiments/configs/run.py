"""What an experiment is: the options of the command line as values, checked, and to and from JSON.

Importing this imports no torch, so that options can be parsed and refused at once.
"""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from tyro.conf import Fixed, Suppress, arg

from surmin.errors import did_you_mean
from surmin.experiments.configs.problem import MODELS, ProblemConfig
from surmin.experiments.configs.surrogate import SURROGATE_OPTIONS, SurrogateConfig
from surmin.launch.deadlines import Deadlines
from surmin.methods.registry import METHODS, check_options, flag
from surmin.own_code import is_own
from surmin.value_types import check_types

METHOD_OPTIONS = (
    *SURROGATE_OPTIONS, "inner_steps", "inner_lr", "inner_optimizer", "optimizer", "safeguard", "local_loss", "penalty",
    "shrinking",
)  # fmt: skip
"""Options of methods, the learning rate aside; None leaves the method's own default."""

MOST = {
    "layers": 100_000, "width": 1_000_000, "stages": 100_000, "workers": 1024, "microbatches": 1_000_000,
    "threads": 1024, "rounds": 10**12, "batch_size": 10**12, "inner_steps": 10**9, "rank": 10**9, "seed": 2**32 - 1,
    "seeds": 10_000, "jobs": 1024, "trials": 10**9, "training_rounds": 10**9, "directions": 10**6,
    "lanczos_steps": 10**6,
}  # fmt: skip
"""Largest values of options: beyond them something overflows, or a machine is flooded.

Of a seed torch's generator on the processor uses 32 bits: a larger one is a smaller one's network again."""
LARGEST_RATE = 1e38
"""Learning rates beyond are infinite in float32."""
LEAST_TIMEOUT = 10.0


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(SurrogateConfig, ProblemConfig):
    """The problem and everything that runs on it have in common.

    Attributes:
        stages: parts the network is cut into; at most 4 if not given.
        workers: processes that the stages are spread over.
        replicas: copies of the network, each on an equal part of the workers and with an equal share of every batch.
        microbatches: equal parts every batch goes through the stages in.
        schedule: of forward and gradient waves between workers: posted (receives posted ahead, best on slow links), or
            torch's gpipe or 1f1b.
        timeout: a run in which a worker hangs has ended after so many seconds; workers wait for each other for 0.8 of
            them. At least 10.
        inner_steps: inner steps per round (sm, sm-paper, sso, cgblock, cgblock-ggn, locoprop, dni), or L-BFGS
            iterations per round (lbfgs, 20 if not given).
        inner_lr: of locoprop, sso and dni: step size of their inner optimizers.
        inner_optimizer: of sso: what minimises its surrogate, armijo, gd or adam; of locoprop adam or gd.
        optimizer: of ddg, features-replay, fdg, dni, dgl and interlocking: what steps along their gradients.
        safeguard: of cgblock and newton: none (as in the paper), damping, or armijo (a line search; cgblock's CG stops
            at negative curvature).
        local_loss: of locoprop: squared or matching.
        penalty: of dladmm: ρ, what a violated constraint costs.
        shrinking: of fdg: β, by which every stage multiplies the gradient it receives.
        rounds: outer iterations to do.
        batch_size: samples per round, drawn anew every epoch, a remainder left out; 0 is the full batch, which more
            than 1,000 windows of text are only with train_samples.
        target_loss: stop at the first round whose training loss is this or lower.
    """

    command: ClassVar[str]

    stages: int | None = None
    workers: int = 1
    replicas: int = 1
    microbatches: int = 1
    schedule: Literal["posted", "gpipe", "1f1b"] = "posted"
    timeout: float = 300.0
    inner_steps: int | None = None
    inner_lr: float | None = None
    inner_optimizer: Literal["armijo", "gd", "adam"] | None = None
    optimizer: Literal["sgd", "adam"] | None = None
    safeguard: Literal["none", "damping", "armijo"] | None = None
    local_loss: Literal["squared", "matching"] | None = None
    penalty: float | None = None
    shrinking: float | None = None
    rounds: int = 50
    batch_size: int = 0
    target_loss: float | None = None

    def check(self) -> None:
        """Raise ValueError for an impossible value, naming the option; what needs the data is checked later."""
        check_types(vars(self), get_type_hints(type(self)))
        if self.model not in MODELS and not is_own(self.model):
            raise ValueError(
                f"unknown model {self.model!r}: {did_you_mean(self.model, MODELS)}choose {', '.join(MODELS)}, or "
                "module:function of your own"
            )
        least = {"layers": 1, "width": 1, "stages": 1, "workers": 1, "microbatches": 1, "threads": 1}
        check_least(self, **least, replicas=1, rounds=0, batch_size=0, seed=0)
        check_most(self)
        for name in ("lr", "inner_lr"):
            value = getattr(self, name, None)
            if isinstance(value, float) and value < math.inf:
                check_rate(name, value, self.dtype)
        if self.target_loss is not None and not math.isfinite(self.target_loss):
            raise ValueError(f"target_loss must be a finite number, got {self.target_loss}")
        if not LEAST_TIMEOUT <= self.timeout < math.inf:
            raise ValueError(
                f"timeout must be at least {LEAST_TIMEOUT:g} seconds, in which a busy machine draws a picture, "
                f"got {self.timeout:g}"
            )
        pipe, rest = divmod(self.workers, self.replicas)
        if rest:
            raise ValueError(
                f"{self.workers} workers cannot hold {self.replicas} equal replicas: give --workers a multiple of "
                f"{self.replicas}, or another number of --replicas"
            )
        if self.stages is not None and pipe > self.stages:
            raise ValueError(
                f"{pipe} workers cannot share {self.stages} stages: every worker needs at least one; "
                f"give --stages {pipe}"
            )
        if self.model == "mlp" and pipe > self.layers:
            raise ValueError(f"{pipe} workers cannot share {self.layers} layers: every worker needs at least one")

    @property
    def waiting(self) -> float:
        """Seconds that a worker waits for another."""
        return Deadlines(self.timeout).waiting

    def given_options(self) -> dict[str, Any]:
        """The method options that were given."""
        values = {name: getattr(self, name) for name in METHOD_OPTIONS}
        return {name: value for name, value in values.items() if value is not None}

    def to_words(self) -> list[str]:
        """The options as they are written on the command line."""
        given = ((name, value) for name, value in asdict(self).items() if value is not None)
        words = ((name, value if isinstance(value, tuple) else (value,)) for name, value in given)
        return [word for name, values in words for word in (flag(name), *map(str, values))]


@dataclass(frozen=True, kw_only=True)
class RunConfig(ExperimentConfig):
    """One network trained by one method.

    Attributes:
        lr: learning rate of gd, sgd, adam, ddg, features-replay, fdg, dni, dgl and interlocking; first step tried by
            gd-armijo and lbfgs; step of sso in the outputs and of locoprop to its targets.
        checkpoint_seconds: a checkpoint is written before the first round that begins so long after the last one was,
            and at the end; 0 for one before every round.
    """

    command: ClassVar[str] = "train"

    method: Annotated[str, arg(help=f"one of {', '.join(METHODS)}; or module:builder of your own.")] = "sm"
    lr: float | None = None
    checkpoint_seconds: float = 30.0

    def given_options(self) -> dict[str, Any]:
        """The method options that were given, the learning rate among them."""
        return super().given_options() | ({} if self.lr is None else {"lr": self.lr})

    def check(self) -> None:
        """As above; the method must be known and take the options given."""
        super().check()
        if not is_own(self.method):  # that is looked at when it is built: nothing is imported because a file says so
            check_options(self.method, self.given_options())
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a positive number, got {self.lr}")
        if not 0 <= self.checkpoint_seconds < math.inf:
            raise ValueError(f"checkpoint_seconds must be a number from 0 up, got {self.checkpoint_seconds}")

    def check_effects(self) -> None:
        """As for sm, where that is the method."""
        if self.method == "sm":
            super().check_effects()


@dataclass(frozen=True, kw_only=True)
class CompareConfig(ExperimentConfig):
    """Several methods on the same problem; for every seed all start from the same network and see the same batches.

    A method option goes to the methods that take it.

    Attributes:
        lr: learning rates to try, separated by commas, for all methods that take one, or METHOD=RATES for one;
            several of these separated by spaces.
        seeds: how many seeds, counted from --seed up.
    """

    command: ClassVar[str] = "compare"

    methods: Annotated[
        str, arg(help=f"names separated by commas, or all: {', '.join(METHODS)}; or module:builder of your own.")
    ] = "sm,adam,gd-armijo"
    lr: tuple[str, ...] = ()
    seeds: int = 1
    schedule: Annotated[Literal["posted", "gpipe", "1f1b"], Suppress, Fixed] = "posted"
    timeout: Annotated[float, Suppress, Fixed] = 300.0

    @property
    def takes_all(self) -> bool:
        """Whether every method is meant that can run."""
        return self.methods.strip() == "all"

    def check(self) -> None:
        """As above; methods and learning rates are checked where the runs are planned."""
        super().check()
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        if self.workers > 1:
            raise ValueError(
                "surmin compare runs in one process and counts what workers would send: leave workers at 1"
            )


def check_least(config: Any, **bounds: int) -> None:
    """Raise ValueError for an option, of those that are given, that is smaller than its bound."""
    for name, bound in bounds.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise ValueError(f"{name} must be at least {bound}, got {value}")


def check_distinct(config: Any, *names: str) -> None:
    """Raise ValueError for an option that is no list of different numbers from 1 up."""
    for name in names:
        values = getattr(config, name)
        if not values or min(values) < 1 or len(set(values)) < len(values):
            raise ValueError(f"{name} must be one or more different whole numbers from 1 up, got {list(values)}")


def check_most(config: Any) -> None:
    """Raise ValueError for an option that is larger than `MOST` has it."""
    for name, bound in MOST.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and value > bound:
            raise ValueError(f"{name} must be at most {bound:,}, got {value:,}")


def check_rate(name: str, rate: float, dtype: str) -> None:
    """Raise ValueError for a learning rate, the option of that name, that is infinite in this dtype."""
    if rate > LARGEST_RATE and dtype == "float32":
        raise ValueError(f"{name} must be at most {LARGEST_RATE:g} in float32, got {rate:g}")
