"""A layer at one point and one cotangent, one derivative further than its Jacobians: what Hessian products are made of.

Legend: z the layer's input, θ its parameters, f its output, g the cotangent of f. A perturbation (ż, v) of (z, θ), and
the change ġ of g with which the layers above answer, change
    f       by J_z ż + J_θ v,
    J_zᵀ g  by J_zᵀ ġ + ∂²⟨g, f⟩/∂z² ż + ∂²⟨g, f⟩/∂z∂θ v,
    J_θᵀ g  by J_θᵀ ġ + ∂²⟨g, f⟩/∂θ∂z ż + ∂²⟨g, f⟩/∂θ² v.
All three have a leading axis of columns: ż (c, n, *in), v (c, P), ġ (c, n, *out). None stands for zero.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from surmin.stages.attention_kernel import math_attention
from surmin.stages.convolution import ConvolutionAtPoint
from surmin.stages.elementwise import PIECEWISE_LINEAR, ElementwiseAtPoint, elementwise_second_derivative
from surmin.stages.layer import Layer, flatten
from surmin.stages.linear import LinearAtPoint
from surmin.stages.linearize import linearize


class LayerTangents(Protocol):
    """The three changes."""

    def push(self, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """The change of f, (c, n, *out); at least one of ż and v is given."""

    def pull_inputs(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """The change of J_zᵀ g, (c, n, *in)."""

    def pull_parameters(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """The change of J_θᵀ g, (c, P)."""


def layer_tangents(layer: Layer, inputs: Tensor, parameters: Mapping[str, Tensor], cotangent: Tensor) -> LayerTangents:
    """Closed forms where there are some, `torch.func` for everything else.

    Args:
        layer: the layer.
        inputs: z.
        parameters: θ by name.
        cotangent: g.
    """
    point = linearize(layer, inputs, parameters)
    if isinstance(point, LinearAtPoint | ConvolutionAtPoint):
        return BilinearTangents(point, cotangent)
    if isinstance(point, ElementwiseAtPoint):
        is_straight = type(layer.module) in PIECEWISE_LINEAR
        bend = None if is_straight else elementwise_second_derivative(layer, inputs) * cotangent
        return ElementwiseTangents(point.derivative, bend)
    return GenericTangents(layer, inputs, parameters, cotangent)


class BilinearTangents:
    """f = W z + b, a linear layer or a convolution: its second derivatives are those of a product of W and z."""

    def __init__(self, point: LinearAtPoint | ConvolutionAtPoint, cotangent: Tensor) -> None:
        self.point = point
        self.cotangent = cotangent

    def push(self, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """W ż + V z + v_b."""
        parts = []
        if tangents is not None:
            parts.append(self.point.input_jvp(tangents.flatten(0, 1)).unflatten(0, tangents.shape[:2]))
        if directions is not None:
            parts.append(torch.stack([self.point.parameter_jvp(direction) for direction in directions]))
        return sum(parts[1:], parts[0])

    def pull_inputs(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """Wᵀ ġ + Vᵀ g."""
        below = self.point.input_vjp(changes)
        if directions is None:
            return below
        kernels = (self.point.layer.unflatten(direction) for direction in directions)
        others = [type(self.point)(self.point.layer, self.point.inputs, kernel) for kernel in kernels]
        return below + torch.cat([other.input_vjp(self.cotangent.unsqueeze(0)) for other in others])

    def pull_parameters(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """ġ zᵀ + g żᵀ for the weight, Σ ġ for the bias."""
        own = torch.stack([self.point.parameter_vjp(change) for change in changes])
        if tangents is None:
            return own
        kernel = {"weight": self.point.weight}
        others = [type(self.point)(self.point.layer, tangent, kernel) for tangent in tangents]
        mixed = torch.stack([other.parameter_vjp(self.cotangent) for other in others])
        mixed[:, self.point.weight.numel() :] = 0
        return own + mixed


class ElementwiseTangents:
    """f = σ(z), which has no parameters; `slope` is σ', `bend` is σ'' ⊙ g, or None for zero."""

    def __init__(self, slope: Tensor, bend: Tensor | None) -> None:
        self.slope = slope
        self.bend = bend

    def push(self, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """σ' ⊙ ż."""
        assert tangents is not None
        return self.slope * tangents

    def pull_inputs(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """σ' ⊙ ġ + σ'' ⊙ g ⊙ ż."""
        below = self.slope * changes
        return below if tangents is None or self.bend is None else below.addcmul_(self.bend, tangents)

    def pull_parameters(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """Nothing."""
        return changes.new_zeros(len(changes), 0)


class GenericTangents:
    """Any module: forward over reverse mode, all columns at once."""

    def __init__(self, layer: Layer, inputs: Tensor, parameters: Mapping[str, Tensor], cotangent: Tensor) -> None:
        self.layer = layer
        self.inputs = inputs.detach()
        self.values = flatten([value.detach() for value in parameters.values()]) if parameters else None
        self.cotangent = cotangent

    def push(self, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """Forward mode in z and θ."""
        return self._differentiate(self._forward, tangents, directions)

    def pull_inputs(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """Forward mode in z, θ and g over reverse mode in z."""
        return self._differentiate(self._input_gradient, tangents, directions, changes)

    def pull_parameters(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """Forward mode in z, θ and g over reverse mode in θ."""
        if self.values is None:
            return changes.new_zeros(len(changes), 0)
        return self._differentiate(self._parameter_gradient, tangents, directions, changes)

    def _differentiate(
        self, function: Callable[[Tensor, Tensor | None, Tensor], Tensor],
        tangents: Tensor | None, directions: Tensor | None, changes: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """How a function of (z, θ, g) changes along every column."""
        at = [self.inputs, self.values, self.cotangent]
        columns = {index: own for index, own in enumerate((tangents, directions, changes)) if own is not None}

        def moved(*values: Tensor) -> Tensor:
            inputs, parameters, cotangent = (
                {**dict(enumerate(at)), **dict(zip(columns, values, strict=True))}
            ).values()
            assert inputs is not None and cotangent is not None
            return function(inputs, parameters, cotangent)

        start = tuple(at[index] for index in columns)
        with math_attention():
            change: Tensor = vmap(lambda *column: jvp(moved, start, column)[1])(*columns.values())
        return change

    def _forward(self, inputs: Tensor, values: Tensor | None, _: Tensor) -> Tensor:
        return self.layer.forward(inputs, None if values is None else self.layer.unflatten(values))

    def _input_gradient(self, inputs: Tensor, values: Tensor | None, cotangent: Tensor) -> Tensor:
        gradient: Tensor = vjp(lambda z: self._forward(z, values, cotangent), inputs)[1](cotangent)[0]
        return gradient

    def _parameter_gradient(self, inputs: Tensor, values: Tensor | None, cotangent: Tensor) -> Tensor:
        gradient: Tensor = vjp(lambda theta: self._forward(inputs, theta, cotangent), values)[1](cotangent)[0]
        return gradient
