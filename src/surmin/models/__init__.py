"""Networks to train: MLP, small CNN and small GPT, each a plain `nn.Sequential` that can be cut into stages."""

from surmin.models.activations import ACTIVATIONS
from surmin.models.building import build_model
from surmin.models.cnn import cnn
from surmin.models.errors import ModelError
from surmin.models.gpt import gpt
from surmin.models.mlp import mlp

__all__ = ["ACTIVATIONS", "ModelError", "build_model", "cnn", "gpt", "mlp"]
