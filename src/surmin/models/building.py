"""From names and sizes, as given on a command line, to a network."""

from collections.abc import Sequence

from torch import nn

from surmin.models.cnn import cnn
from surmin.models.errors import ModelError
from surmin.models.gpt import gpt
from surmin.models.mlp import mlp

KINDS = ("mlp", "cnn", "gpt")
DEFAULT_ACTIVATIONS = {"mlp": "relu", "cnn": "relu", "gpt": "gelu"}


def build_model(
    kind: str,
    *,
    input_shape: Sequence[int],
    outputs: int,
    layers: int,
    width: int,
    activation: str | None = None,
    heads: int = 4,
    tokens: bool = False,
) -> nn.Sequential:
    """Returns a freshly initialised network; seed with `torch.manual_seed` before. Nothing else is drawn from.

    Args:
        kind: ``mlp``, ``cnn`` or ``gpt``.
        input_shape: shape of one sample; (context,) for ``gpt``.
        outputs: number of classes; for ``gpt`` the size of the vocabulary.
        layers: layers with weights; for ``gpt`` transformer blocks.
        width: size of a hidden layer, channels of a convolution, or size of a position's vector.
        activation: a key of `ACTIVATIONS`; None means that of `DEFAULT_ACTIVATIONS`.
        heads: attention heads, for ``gpt`` only.
        tokens: whether the inputs are token ids, as ``gpt`` needs and the others cannot take.

    Raises:
        ModelError: an unknown name, an impossible size, or inputs that the network cannot take.
    """
    if kind not in KINDS:
        raise ModelError(f"unknown model {kind!r}: choose one of {', '.join(KINDS)}")
    if kind == "gpt" and not (tokens and len(input_shape) == 1):
        raise ModelError(
            f"gpt needs rows of token ids, as text has; this data has samples of shape {tuple(input_shape)}"
        )
    if kind != "gpt" and tokens:
        raise ModelError(f"{kind} needs numbers, this data has token ids; gpt takes those")
    activation = activation or DEFAULT_ACTIVATIONS[kind]
    if kind == "gpt":
        return gpt(outputs, input_shape[0], layers, width, heads, activation)
    build = mlp if kind == "mlp" else cnn
    return build(input_shape, outputs, layers, width, activation)
