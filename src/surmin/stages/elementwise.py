"""An elementwise activation at one point: multiplication by its derivative."""

import torch
from torch import Tensor, nn

from surmin.stages.layer import Layer

ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Tanhshrink, nn.Identity,
)  # fmt: skip
PIECEWISE_LINEAR = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid, nn.Identity)
MISH_STRAIGHT_FROM = 40.0
"""Its second derivative is below 1e-32 from here on; torch's is not a number from 89 on in float32."""


class ElementwiseAtPoint:
    """f = σ(z), so J_z is the diagonal σ'(z). It has no parameters."""

    def __init__(self, layer: Layer, inputs: Tensor) -> None:
        self.derivative = elementwise_derivative(layer, inputs)

    def parameter_jvp(self, direction: Tensor) -> Tensor:
        """No parameters: zero."""
        return torch.zeros_like(self.derivative)

    def parameter_vjp(self, cotangent: Tensor) -> Tensor:
        """No parameters: an empty vector."""
        return cotangent.new_zeros(0)

    def input_jvp(self, tangent: Tensor) -> Tensor:
        """σ' ⊙ u."""
        return self.derivative * tangent

    def input_vjp(self, cotangents: Tensor) -> Tensor:
        """σ' ⊙ r."""
        return self.derivative * cotangents


def elementwise_derivative(layer: Layer, inputs: Tensor) -> Tensor:
    """σ'(z) of an elementwise module: the sum over the output has it as its gradient."""
    if type(layer.module) is nn.ReLU:
        return (inputs > 0).to(inputs.dtype)
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        (derivative,) = torch.autograd.grad(layer.forward(leaf).sum(), leaf)
    return derivative


def elementwise_second_derivative(layer: Layer, inputs: Tensor) -> Tensor:
    """σ''(z), zero where σ is piecewise linear."""
    if type(layer.module) in PIECEWISE_LINEAR:
        return torch.zeros_like(inputs)
    if type(layer.module) is nn.Mish:
        inputs = inputs.clamp_max(MISH_STRAIGHT_FROM)
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        (first,) = torch.autograd.grad(layer.forward(leaf).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), leaf)
    return second
