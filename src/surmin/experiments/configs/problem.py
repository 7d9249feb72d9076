"""Data and network as options of the command line. Importing this imports no torch."""

from dataclasses import dataclass, fields
from typing import Any, Literal

MODELS = ("mlp", "cnn", "gpt")
LOSSES = {"cross-entropy": "CrossEntropy", "squared": "SquaredError", "logistic": "LogisticLoss"}
"""The classes in `surmin.losses` by their names on the command line."""


@dataclass(frozen=True, kw_only=True)
class ProblemConfig:
    """Data and a network for it.

    Attributes:
        data: digits, mnist, text, a folder of IDX files, or an .npz file.
        data_dir: folder of the mnist or text files.
        train_samples: keep only this many training samples, the first ones.
        loss: cross-entropy, squared, logistic, or module:name of your own, a surmin.ConvexLoss, or a class or function
            without arguments that makes one.
        model: mlp, cnn or gpt, or module:function of your own, called with whichever of input_shape, outputs, layers,
            width and activation it accepts, which returns a module.
        layers: layers with weights; for gpt, transformer blocks.
        width: size of a hidden layer, channels of a convolution, or size of a token's vector.
        activation: relu, tanh, softplus, sigmoid, gelu, elu, silu or identity; relu if not given, gelu for gpt.
        dtype: type of inputs and parameters.
        device: auto is cuda if there is a GPU.
        seed: seed of the initial weights, the batches and everything else random.
        threads: CPU threads; 1 gives the same numbers on every machine of a kind, and comparable times.
    """

    data: str = "digits"
    data_dir: str | None = None
    train_samples: int | None = None
    loss: str = "cross-entropy"
    model: str = "mlp"
    layers: int = 8
    width: int = 64
    activation: str | None = None
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    threads: int = 1


def values_of(config: Any, *kinds: type) -> dict[str, Any]:
    """The options of these classes that a config has."""
    return {field.name: getattr(config, field.name) for kind in kinds for field in fields(kind)}
