"""Which data and which network, as options of the command line. Importing this imports no torch."""

from dataclasses import dataclass, fields
from typing import Any, Literal

MODELS = ("mlp", "cnn", "gpt")


@dataclass(frozen=True, kw_only=True)
class ProblemConfig:
    """Data and a network for it.

    Attributes:
        data: digits, mnist, text, a folder of IDX files, or an .npz file.
        data_dir: where the files of mnist or text are.
        train_samples: keep only the first so many training samples.
        model: mlp, cnn or gpt, or module:function of your own, which is called with those of input_shape, outputs,
            layers, width and activation that it has parameters for, and returns a module.
        layers: layers with weights; for gpt, transformer blocks.
        width: size of a hidden layer, channels of a convolution, or size of a token's vector.
        activation: relu, tanh, softplus, sigmoid, gelu, elu, silu or identity; relu if not given, gelu for gpt.
        dtype: of inputs and parameters.
        device: auto is cuda where there is one.
        seed: of the initial weights, the batches and everything else random.
        threads: of the processor; 1 gives the same numbers on every machine of a kind, and comparable times.
    """

    data: str = "digits"
    data_dir: str | None = None
    train_samples: int | None = None
    model: str = "mlp"
    layers: int = 8
    width: int = 64
    activation: str | None = None
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    threads: int = 1


def values_of(config: Any, *kinds: type) -> dict[str, Any]:
    """The options that a config has from these classes of options."""
    return {field.name: getattr(config, field.name) for kind in kinds for field in fields(kind)}
