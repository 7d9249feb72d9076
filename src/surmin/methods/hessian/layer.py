"""A layer at one point and one cotangent, one derivative further than its Jacobians: what Hessian products are made of.

Legend: z the layer's input, θ its parameters, f its output, g the cotangent of f. A perturbation (ż, v) of (z, θ), and
the change ġ of g with which the layers above answer, change
    f       by J_z ż + J_θ v,
    J_zᵀ g  by J_zᵀ ġ + ∂²⟨g, f⟩/∂z² ż + ∂²⟨g, f⟩/∂z∂θ v,
    J_θᵀ g  by J_θᵀ ġ + ∂²⟨g, f⟩/∂θ∂z ż + ∂²⟨g, f⟩/∂θ² v.
All three have a leading axis of columns: ż (c, n, *in), v (c, P), ġ (c, n, *out). None stands for zero.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from surmin.stages.convolution import ConvolutionAtPoint
from surmin.stages.elementwise import PIECEWISE_LINEAR, ElementwiseAtPoint, elementwise_second_derivative
from surmin.stages.layer import Layer
from surmin.stages.linear import LinearAtPoint
from surmin.stages.linearize import linearize
from surmin.stages.recorded import (
    check_transpose,
    naming,
    pull,
    pull_columns,
    recording,
    require_second_derivatives,
)


class LayerTangents(Protocol):
    """The three changes. Only the pulls need second derivatives."""

    def push(self, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """The change of f, (c, n, *out); at least one of ż and v is given."""

    def pull_inputs(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """The change of J_zᵀ g, (c, n, *in)."""

    def pull_parameters(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """The change of J_θᵀ g, (c, P)."""


def layer_tangents(layer: Layer, inputs: Tensor, parameters: Mapping[str, Tensor], cotangent: Tensor) -> LayerTangents:
    """Closed forms if there are any, otherwise one recording.

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
        return ElementwiseTangents(layer, inputs, point, cotangent)
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
        if directions is None or not self.point.layer.parameters:
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
    """f = σ(z), which has no parameters; `point` multiplies by σ'."""

    def __init__(self, layer: Layer, inputs: Tensor, point: ElementwiseAtPoint, cotangent: Tensor) -> None:
        self.layer = layer
        self.inputs = inputs
        self.point = point
        self.cotangent = cotangent

    @cached_property
    def second_order(self) -> Tensor | None:
        """σ'' ⊙ g, None for zero."""
        if type(self.layer.module) in PIECEWISE_LINEAR:
            return None
        return elementwise_second_derivative(self.layer, self.inputs) * self.cotangent

    def push(self, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """σ' ⊙ ż."""
        assert tangents is not None
        return self.point.input_jvp(tangents)

    def pull_inputs(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """σ' ⊙ ġ + σ'' ⊙ g ⊙ ż."""
        below = self.point.input_vjp(changes)
        if tangents is None or self.second_order is None:
            return below
        return below.addcmul_(self.second_order, tangents)

    def pull_parameters(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """Nothing."""
        return changes.new_zeros(len(changes), 0)


class GenericTangents:
    """Any module: Jᵀ g is recorded once, and pulled back."""

    def __init__(self, layer: Layer, inputs: Tensor, parameters: Mapping[str, Tensor], cotangent: Tensor) -> None:
        self.layer = layer
        self.inputs = inputs.detach().requires_grad_(inputs.is_floating_point())
        self.parameters = [value.detach().requires_grad_() for value in parameters.values()]
        self.cotangent = cotangent.detach().requires_grad_()
        moved = [self.inputs] if self.inputs.requires_grad else []
        with naming(layer):
            with recording():
                self.output = layer.forward(self.inputs, dict(zip(parameters, self.parameters, strict=True)))
            gradients = pull([self.output], [*moved, *self.parameters], [self.cotangent], record=True)
            check_transpose(self.output, gradients, self.cotangent)
        self.input_gradient, self.parameter_gradient = gradients[: len(moved)], gradients[len(moved) :]

    def push(self, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """Jᵀ g, which is linear in g, pulled back to g."""
        return self._pull([self.cotangent], None, tangents, directions)[0]

    def pull_inputs(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """f and Jᵀ g pulled back to z."""
        return self._pull([self.inputs], changes, tangents, directions)[0]

    def pull_parameters(self, changes: Tensor, tangents: Tensor | None, directions: Tensor | None) -> Tensor:
        """f and Jᵀ g pulled back to θ."""
        pulled = self._pull(self.parameters, changes, tangents, directions)
        return torch.cat([changes.new_zeros(len(changes), 0), *(own.reshape(len(own), -1) for own in pulled)], 1)

    @cached_property
    def _twice(self) -> Tensor:
        """f, once its second derivatives are known to be right."""
        with naming(self.layer):
            require_second_derivatives(self.output)
        return self.output

    def _pull(
        self, targets: Sequence[Tensor], changes: Tensor | None, tangents: Tensor | None, directions: Tensor | None
    ) -> tuple[Tensor, ...]:
        """What ġ for f, ż for J_zᵀ g and v for J_θᵀ g pull back to the targets."""
        outputs: list[Tensor] = []
        columns: list[Tensor] = []
        if changes is not None:
            outputs.append(self._twice)
            columns.append(changes)
        if tangents is not None:
            outputs += self.input_gradient
            columns.append(tangents)
        if directions is not None:
            outputs += self.parameter_gradient
            named = (self.layer.unflatten(direction).values() for direction in directions)
            columns += [torch.stack(own) for own in zip(*named, strict=True)]
        with naming(self.layer):
            return pull_columns(outputs, targets, columns) if targets else ()
