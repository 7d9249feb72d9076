"""What `surmin check` is asked to check. Importing this imports no torch, so that options can be refused at once."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from surmin.experiments.config import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """A small network on a few samples: everything is compared with dense matrices.

    Attributes:
        data: digits, mnist, text, a folder of IDX files, or an .npz file.
        data_dir: where the files of mnist or text are.
        train_samples: the first so many training samples are the batch.
        model: kind of network.
        layers: layers with weights; for gpt, transformer blocks.
        width: size of a hidden layer, channels of a convolution, or size of a token's vector.
        activation: relu, tanh, softplus, sigmoid, gelu, elu, silu or identity; relu if not given, gelu for gpt.
        stages: parts the network is cut into.
        curvature: what goes down the pipe, factor, sample or scalar.
        blocks: what gets a local loss of its own, a layer or a stage.
        delta: with scalar or sample curvature, δ of Appendix A.
        power_steps: with scalar or sample curvature, products spent on the largest eigenvalue.
        eigenvalue: with scalar or sample curvature, by power iteration or by lanczos.
        radii: lengths of the random steps that the bound is tried on, as multiples of the parameters' norm.
        trials: random steps of every length.
        dtype: in which the package computes; the references are float64 always.
        device: auto is cuda where there is one.
        seed: of the initial weights and the random steps.
        threads: of the processor.
    """

    data: str = "digits"
    data_dir: str | None = None
    train_samples: int = 20
    model: Literal["mlp", "cnn", "gpt"] = "mlp"
    layers: int = 3
    width: int = 12
    activation: str | None = None
    stages: int = 1
    curvature: Literal["factor", "sample", "scalar"] = "factor"
    blocks: Literal["layer", "stage"] = "layer"
    delta: float = 1.0
    power_steps: int = 20
    eigenvalue: Literal["power", "lanczos"] = "power"
    radii: tuple[float, ...] = (0.001, 0.01, 0.1, 0.3, 1.0)
    trials: int = 50
    dtype: Literal["float32", "float64"] = "float64"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    threads: int = 1

    @property
    def experiment(self) -> ExperimentConfig:
        """The same problem as the other commands know it."""
        return ExperimentConfig(
            data=self.data, data_dir=self.data_dir, train_samples=self.train_samples, model=self.model,
            layers=self.layers, width=self.width, activation=self.activation, stages=self.stages, dtype=self.dtype,
            device=self.device, seed=self.seed, threads=self.threads,
        )  # fmt: skip

    def check(self) -> None:
        """Raise ValueError for an impossible value, naming the option."""
        self.experiment.check()
        if self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        if not self.radii or not all(0 < radius < math.inf for radius in self.radii):
            raise ValueError(f"radii must be one or more positive numbers, got {list(self.radii)}")

    def to_json(self) -> dict[str, Any]:
        """Plain values by option name."""
        return asdict(self)
