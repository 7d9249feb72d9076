"""Options of `surmin paper`. Importing this imports no torch, so that options can be refused at once."""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from tyro.conf import arg

from surmin.experiments.configs.contenders import CONTENDERS
from surmin.experiments.configs.lists import names
from surmin.experiments.configs.ranges import check_distinct, check_least, check_most
from surmin.experiments.configs.run import ExperimentConfig, RunConfig
from surmin.value_types import check_types

MOST_SEEDS = 1000
"""Most seeds that results come from: settings are chosen on the next one."""


@dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """The paper's grid: depths × inner steps × methods, every method tuned, then run on several seeds.

    Attributes:
        data: digits, mnist, a folder of IDX files, or an .npz file.
        data_dir: folder of the mnist files.
        train_samples: keep only this many training samples, the first ones.
        width: size of a hidden layer.
        activation: relu, tanh, softplus, sigmoid, gelu, elu, silu or identity; relu if not given.
        depths: numbers of layers.
        inner_steps: numbers N of inner steps per round, for the methods that take them.
        methods: which of the grid's methods.
        rounds: rounds of every run; a run stops earlier at the target loss.
        tuning_rounds: rounds of runs that only choose a setting; a third of the rounds if not given.
        target_loss: where a run stops; lower losses are not told apart.
        seeds: number of seeds, counting up from --seed. Settings are chosen on another one, 1,000 further on.
        seed: the first seed.
        quick: a version of less than ten minutes on two cores: 300 samples, width 32, 40 rounds, 2 seeds and 2 jobs
            unless others are given.
        jobs: runs at the same time, each a process. Times are then those of a shared machine.
        dtype: type of inputs and parameters.
        device: auto is cuda if there is a GPU.
    """

    command: ClassVar[str] = "paper"

    data: str = "digits"
    data_dir: str | None = None
    train_samples: int | None = None
    width: int = 64
    activation: str | None = None
    depths: tuple[int, ...] = (2, 4, 8)
    inner_steps: tuple[int, ...] = (1, 10, 20)
    methods: Annotated[str, arg(help=f"names separated by commas, or all: {', '.join(CONTENDERS)}.")] = "all"
    rounds: int = 300
    tuning_rounds: int | None = None
    target_loss: float = 1e-6
    seeds: int = 3
    seed: int = 0
    quick: bool = False
    jobs: int = 1
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def rounds_to_tune(self) -> int:
        """Rounds of a run that only chooses a setting."""
        return self.tuning_rounds or max(1, self.rounds // 3)

    @property
    def contenders(self) -> list[str]:
        """Names of the methods asked for, each once.

        Raises:
            ValueError: if a name is unknown.
        """
        text = self.methods.strip()
        found = list(CONTENDERS) if text == "all" else names(text)
        if not found:
            raise ValueError("name at least one method")
        for name in found:
            if name not in CONTENDERS:
                raise ValueError(f"unknown method {name!r}: the grid has {', '.join(CONTENDERS)}")
        return found

    def experiment(self, layers: int) -> ExperimentConfig:
        """The problem at one depth in the form the other commands use."""
        return ExperimentConfig(
            data=self.data, data_dir=self.data_dir, train_samples=self.train_samples, layers=layers, width=self.width,
            activation=self.activation, target_loss=self.target_loss, rounds=self.rounds, seed=self.seed,
            dtype=self.dtype, device=self.device,
        )  # fmt: skip

    def run(self, layers: int, method: str, options: dict[str, Any], seed: int, rounds: int) -> RunConfig:
        """One run of the grid."""
        shared = asdict(self.experiment(layers))
        return RunConfig(**{**shared, **options, "method": method, "seed": seed, "rounds": rounds})

    def check(self) -> None:
        """Raise ValueError for an impossible value, naming the option."""
        check_types(vars(self), get_type_hints(type(self)))
        check_distinct(self, "depths", "inner_steps")
        check_least(self, rounds=1, seeds=1, jobs=1, tuning_rounds=1)
        check_most(self)
        if self.seeds > MOST_SEEDS:
            raise ValueError(
                f"seeds must be at most {MOST_SEEDS:,}, got {self.seeds:,}: settings are chosen on the one after them"
            )
        if not 0 < self.target_loss < math.inf:
            raise ValueError(f"target_loss must be a positive number, got {self.target_loss}")
        for layers in self.depths:
            self.experiment(layers).check()
        _ = self.contenders


QUICK = PaperConfig(quick=True, train_samples=300, width=32, rounds=40, seeds=2, jobs=2)
"""The defaults with `--quick`."""
