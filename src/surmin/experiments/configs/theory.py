"""Options of `surmin theory`. Importing this imports no torch, so that options can be refused at once."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from surmin.experiments.configs.ranges import check_distinct, check_least, check_most
from surmin.experiments.configs.run import ExperimentConfig

SMOOTH = ("tanh", "softplus", "sigmoid", "gelu", "silu", "identity")


@dataclass(frozen=True, kw_only=True)
class TheoryConfig:
    """Theorem 1 on one smooth network, and the tightness of the local losses on networks of several depths.

    Everything is computed in float64 on the processor, with the whole batch and exact curvatures.

    Attributes:
        data: digits, mnist, a folder of IDX files, or an .npz file.
        data_dir: folder of the mnist files.
        train_samples: the data are this many training samples, the first ones.
        width: size of a hidden layer.
        activation: tanh, softplus, sigmoid, gelu, silu or identity: the theorem is about smooth networks.
        delta: with scalar and sample curvature, δ of Appendix A.
        delta_relative: with scalar and sample curvature, δ as a multiple of λ_max(H_zz) instead.
        layers: linear layers of the network on which the theorem is tested.
        rounds: T, the theorem's rounds.
        inner_steps: values of N, inner steps of size 1/β per round.
        depths: linear layers of the networks whose tightness is measured.
        training_rounds: rounds of sm after which tightness is measured again.
        directions: random directions along which curvatures are compared.
        lanczos_steps: products spent on every largest eigenvalue of a block.
        seeds: initialisations of each depth; the theorem is tested on the first.
        seed: the first seed.
        threads: CPU threads.
    """

    command: ClassVar[str] = "theory"

    data: str = "digits"
    data_dir: str | None = None
    train_samples: int = 100
    width: int = 16
    activation: str = "tanh"
    delta: float = 1.0
    delta_relative: float | None = None
    layers: int = 3
    rounds: int = 100
    inner_steps: tuple[int, ...] = (1, 10)
    depths: tuple[int, ...] = (2, 4, 8, 16)
    training_rounds: int = 10
    directions: int = 10
    lanczos_steps: int = 15
    seeds: int = 3
    seed: int = 0
    threads: int = 1

    def check(self) -> None:
        """Raise ValueError for an impossible value, naming the option."""
        for layers in (self.layers, *self.depths):
            self.problem(layers, self.seed).check()
        check_most(self)
        if self.activation not in SMOOTH:
            raise ValueError(
                f"activation {self.activation!r} is not smooth, which the theorem requires: "
                f"choose one of {', '.join(SMOOTH)}"
            )
        check_least(self, rounds=1, training_rounds=1, directions=1, lanczos_steps=1, seeds=1)
        check_most(replace(self, seed=self.seed + self.seeds - 1))
        check_distinct(self, "depths", "inner_steps")
        for name in ("delta", "delta_relative"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")

    def problem(self, layers: int, seed: int) -> ExperimentConfig:
        """A network with this many layers, and its data, in the form the other commands use."""
        return ExperimentConfig(
            data=self.data, data_dir=self.data_dir, train_samples=self.train_samples, layers=layers, width=self.width,
            activation=self.activation, stages=1, dtype="float64", device="cpu", seed=seed, threads=self.threads,
        )  # fmt: skip
