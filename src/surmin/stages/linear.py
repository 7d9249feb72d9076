"""A linear layer at one point: every product is one or two matrix products."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surmin.stages.layer import Layer, flatten


class LinearAtPoint:
    """f = z Wᵀ + b. Positions between the sample axis and the features are allowed."""

    def __init__(self, layer: Layer, inputs: Tensor, parameters: Mapping[str, Tensor]) -> None:
        assert isinstance(layer.module, nn.Linear)
        self.layer = layer
        self.inputs = inputs
        self.has_bias = "bias" in layer.parameters
        self.weight = parameters.get("weight", layer.module.weight.detach())

    def parameter_jvp(self, direction: Tensor) -> Tensor:
        """Tangent z Vᵀ + v_b; zero for a frozen layer."""
        if not self.layer.parameters:
            return torch.zeros_like(self.input_jvp(self.inputs))
        tangent = self.layer.unflatten(direction)
        return F.linear(self.inputs, tangent["weight"], tangent.get("bias"))

    def parameter_vjp(self, cotangent: Tensor) -> Tensor:
        """Gradient (sᵀ z, Σ s); an empty vector for a frozen layer."""
        if not self.layer.parameters:
            return cotangent.new_zeros(0)
        rows = cotangent.flatten(0, -2)
        pieces = [rows.t() @ self.inputs.flatten(0, -2)]
        if self.has_bias:
            pieces.append(rows.sum(0))
        return flatten(pieces)

    def input_jvp(self, tangent: Tensor) -> Tensor:
        """Tangent u Wᵀ."""
        return tangent @ self.weight.t()

    def input_vjp(self, cotangents: Tensor) -> Tensor:
        """Columns r W."""
        return cotangents @ self.weight

    def kronecker_rows(self, inputs: Tensor) -> Tensor:
        """Inputs as rows (n · positions, in), for the Kronecker preconditioner's C."""
        return inputs.flatten(0, -2)

    def kronecker_columns(self, columns: Tensor) -> Tensor:
        """Columns as rows (k · n · positions, out), for the Kronecker preconditioner's Ĝ."""
        return columns.flatten(0, -2)
