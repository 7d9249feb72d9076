"""What an experiment is: the options of the command line as values, checked, and to and from JSON.

Importing this imports no torch, so that options can be parsed and refused at once.
"""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from tyro.conf import Fixed, arg

from surmin.experiments.configs.problem import LOSSES, MODELS, ProblemConfig
from surmin.experiments.configs.ranges import check_known, check_least, check_most, check_rate
from surmin.experiments.configs.surrogate import SURROGATE_OPTIONS, SurrogateConfig
from surmin.launch.deadlines import Deadlines
from surmin.methods.registry import METHODS, check_takes, flag
from surmin.own_code import is_own
from surmin.pipeline.schedule_names import ScheduleName
from surmin.value_types import check_types

METHOD_OPTIONS = (
    *SURROGATE_OPTIONS, "inner_steps", "inner_lr", "inner_optimizer", "optimizer", "safeguard", "local_loss", "penalty",
    "shrinking",
)  # fmt: skip
"""Method options except the learning rate; None leaves the method's own default."""

LEAST_TIMEOUT = 10.0


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(SurrogateConfig, ProblemConfig):
    """What the problem and everything that runs on it have in common.

    Attributes:
        stages: parts the network is cut into; at most 4 if not given.
        workers: processes that the stages are spread over.
        replicas: copies of the network, each on an equal part of the workers and with an equal share of every batch.
        microbatches: equal parts in which every batch goes through the stages.
        schedule: of forward and gradient waves between workers: posted (receives posted ahead, best on slow links), or
            torch's gpipe or 1f1b.
        timeout: a run with a hanging worker ends within this many seconds; workers wait 0.8 of that for each other. At
            least 10.
        inner_steps: inner steps per round (sm, sm-paper, sso, cgblock, cgblock-ggn, locoprop, dni), or L-BFGS
            iterations per round (lbfgs, 20 if not given).
        inner_lr: of locoprop, sso and dni: step size of their inner optimizers.
        inner_optimizer: of sso: what minimises its surrogate, armijo, gd or adam; of locoprop: adam or gd.
        optimizer: of ddg, features-replay, fdg, dni, dgl and interlocking: what steps along their gradients.
        safeguard: of cgblock and newton: none (as in the paper), damping, or armijo (a line search; cgblock's CG stops
            at negative curvature).
        local_loss: of locoprop: squared or matching.
        penalty: of dladmm: ρ, the cost of a violated constraint.
        shrinking: of fdg: β, by which every stage multiplies the gradient it receives.
        rounds: number of outer iterations.
        batch_size: samples per round, reshuffled every epoch, dropping the remainder; 0 is the full batch (for more
            than 1,000 windows of text only if train_samples is given).
        evaluate_every: rounds from one evaluation on all samples to the next, for short rounds on mini-batches; only
            there are figures recorded and checkpoints written, and only there does a run stop.
        target_loss: stop at the first evaluation whose training loss is this or lower.
    """

    command: ClassVar[str]

    stages: int | None = None
    workers: int = 1
    replicas: int = 1
    microbatches: int = 1
    schedule: ScheduleName = "posted"
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
    evaluate_every: int = 1
    target_loss: float | None = None

    def check(self) -> None:
        """Raise ValueError for an impossible value, naming the option; what depends on the data is checked later."""
        check_types(vars(self), get_type_hints(type(self)))
        check_known("model", self.model, MODELS, "module:function")
        check_known("loss", self.loss, LOSSES, "module:name")
        least = {"layers": 1, "width": 1, "stages": 1, "workers": 1, "microbatches": 1, "threads": 1}
        check_least(self, **least, replicas=1, rounds=0, batch_size=0, evaluate_every=1, seed=0)
        check_most(self)
        for name in ("lr", "inner_lr"):
            value = getattr(self, name, None)
            if isinstance(value, float) and value < math.inf:
                check_rate(name, value, self.dtype)
        if self.target_loss is not None and not math.isfinite(self.target_loss):
            raise ValueError(f"target_loss must be a finite number, got {self.target_loss}")
        if not LEAST_TIMEOUT <= self.timeout < math.inf:
            raise ValueError(
                f"timeout must be at least {LEAST_TIMEOUT:g} seconds: a busy machine can need that long to draw the "
                f"curves, got {self.timeout:g}"
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
        """The options as written on the command line, without those that it does not take."""
        hints = get_type_hints(type(self), include_extras=True)
        fixed = {name for name, hint in hints.items() if Fixed in getattr(hint, "__metadata__", ())}
        given = ((name, value) for name, value in asdict(self).items() if value is not None and name not in fixed)
        words = ((name, value if isinstance(value, tuple) else (value,)) for name, value in given)
        return [word for name, values in words for word in (flag(name), *map(str, values))]


@dataclass(frozen=True, kw_only=True)
class RunConfig(ExperimentConfig):
    """One network trained by one method.

    Attributes:
        lr: learning rate of gd, sgd, adam, ddg, features-replay, fdg, dni, dgl and interlocking; first step tried by
            gd-armijo and lbfgs; step of sso in the outputs and of locoprop to its targets.
        checkpoint_seconds: write a checkpoint at the first evaluation that ends at least this many seconds after the
            last checkpoint, and at the end; 0 for one after every evaluation.
    """

    command: ClassVar[str] = "train"

    method: Annotated[str, arg(help=f"one of {', '.join(METHODS)}; or module:builder of your own.")] = "sm"
    lr: float | None = None
    checkpoint_seconds: float = 30.0

    def given_options(self) -> dict[str, Any]:
        """The method options that were given, including the learning rate."""
        return super().given_options() | ({} if self.lr is None else {"lr": self.lr})

    def check(self) -> None:
        """As above; also, the method must be known and take the given options."""
        super().check()
        if not is_own(self.method):  # that is checked when it is built: nothing is imported because a file says so
            check_takes(self.method, self.given_options())
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a positive number, got {self.lr}")
        if not 0 <= self.checkpoint_seconds < math.inf:
            raise ValueError(f"checkpoint_seconds must be a number from 0 up, got {self.checkpoint_seconds}")

    @property
    def method_names(self) -> list[str]:
        """That one."""
        return [self.method]
