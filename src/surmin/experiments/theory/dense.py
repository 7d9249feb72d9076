"""Dense float64 references for `surmin check`: nested reverse mode over a copy of the network, no closed forms.

Legend: n samples, C outputs per sample, z_i a block's input with D numbers per sample, θ_i its parameters (P,).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian

from surmin.losses import ConvexLoss
from surmin.stages.block import Block, cut_blocks
from surmin.stages.stage import stages_of

LARGEST_BLOCK = 2_000
"""Parameters of one block: its matrices are P × P, one backward pass per row."""
LARGEST_JACOBIAN = 20_000_000
"""Numbers in the Jacobians of all samples' outputs, or of all samples' inputs of one block."""


@dataclass(frozen=True)
class DenseBlock:
    """A block as a function of its input and a flat vector of its parameters."""

    block: Block

    @property
    def size(self) -> int:
        """Number of trainable numbers P."""
        return self.block.size

    def vector(self) -> Tensor:
        """θ̄, a copy."""
        return self.block.vector() if self.size else torch.zeros(0, dtype=torch.float64)

    def __call__(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """The block's output f(z, θ)."""
        state = inputs
        for layer, piece in zip(self.block.layers, self.block.split(parameters), strict=True):
            state = layer.forward(state, layer.unflatten(piece))
        return state


@dataclass(frozen=True)
class DenseNetwork:
    """A float64 copy of a network, cut into blocks, on one batch.

    Attributes:
        blocks: from the network's input to its output; some may have no parameters.
        loss: the convex loss.
        inputs: the batch, float64 or token ids.
        targets: of the batch.
        points: z_0 … z_m at the current parameters.
    """

    blocks: Sequence[DenseBlock]
    loss: ConvexLoss
    inputs: Tensor
    targets: Tensor
    points: Sequence[Tensor]

    @classmethod
    def of(
        cls, modules: Sequence[nn.Module], loss: ConvexLoss, inputs: Tensor, targets: Tensor,
        blocks: Literal["layer", "stage"],
    ) -> "DenseNetwork":  # fmt: skip
        """Copy everything; the network itself is left alone."""
        stages = stages_of(copy.deepcopy(module).double() for module in modules)
        cut = [DenseBlock(block) for own in cut_blocks(stages, blocks) for block in own]
        state = inputs.double() if inputs.is_floating_point() else inputs
        points = [state]
        with torch.no_grad():
            for block in cut:
                state = block(state, block.vector())
                points.append(state)
        return cls(cut, loss, points[0], _double(targets), points)

    def value(self, vectors: Sequence[Tensor]) -> Tensor:
        """The mean loss h(θ)."""
        state = self.inputs
        for block, vector in zip(self.blocks, vectors, strict=True):
            state = block(state, vector)
        return self.loss.sample_losses(state, self.targets).mean()

    def gradients(self) -> list[Tensor]:
        """∂h/∂θ_i of every block."""
        leaves = [block.vector().requires_grad_() for block in self.blocks]
        return list(torch.autograd.grad(self.value(leaves), leaves, allow_unused=True, materialize_grads=True))

    def loss_hessians(self) -> Tensor:
        """∇²ℓ_j over all of a sample's outputs, (n, C, C)."""
        outputs = self.points[-1]
        rows = [
            hessian(lambda z, j=j: self.loss.sample_losses(z.view(outputs[:1].shape), self.targets[j : j + 1])[0], z)
            for j, z in enumerate(outputs.flatten(1))
        ]
        return torch.stack(rows)

    def jacobians(self) -> tuple[list[Tensor], list[Tensor]]:
        """The network's output by every block's parameters, (n, C, P), and by every block's input, (n, C, D).

        Nothing is differentiated by the network's own input: the first of the second list is empty.
        """
        leaves = [block.vector().requires_grad_() for block in self.blocks]
        states = [self.inputs]
        for block, leaf in zip(self.blocks, leaves, strict=True):
            states.append(block(states[-1], leaf))
        inner, output = [z for z in states[1:-1] if z.requires_grad], states[-1].flatten(1)
        rows = [_pull(output[j, c], [*leaves, *inner]) for j in range(len(output)) for c in range(output.shape[1])]
        shape, count = output.shape, len(leaves)
        by_parameters = [torch.stack([row[i] for row in rows]).view(*shape, -1) for i in range(count)]
        found = [torch.stack([row[count + i] for row in rows]).view(*shape, *z.shape) for i, z in enumerate(inner)]
        own = torch.arange(len(output))
        by_inputs = [dense[own, :, own].flatten(2) for dense in found]
        missing = len(states) - 1 - len(by_inputs)
        return by_parameters, [output.new_zeros(*shape, 0)] * missing + by_inputs


@dataclass(frozen=True)
class DenseHessian:
    """∇²[Ψ_i∘f_i] in per-sample units: H_zz (n, D, D), H_zθ (n, D, P), and H_θθ (P, P) summed over samples."""

    zz: Tensor
    zt: Tensor
    tt: Tensor


def surrogate_hessian(block: DenseBlock, inputs: Tensor, cotangent: Tensor, curvature: Tensor) -> DenseHessian:
    """The Hessian of Σ_j [⟨g_j, f_j - f̄_j⟩ + ½ L_j ‖f_j - f̄_j‖²], row by row.

    Args:
        block: the block.
        inputs: z̄, its input; nothing is differentiated by token ids.
        cotangent: g of every sample at its output.
        curvature: L_j, (n,).
    """
    theta = block.vector().requires_grad_()
    z = inputs.clone().requires_grad_(inputs.is_floating_point())
    output = block(z, theta)
    change = output - output.detach()
    value = (cotangent * change).sum() + 0.5 * (curvature * change.flatten(1).square().sum(1)).sum()
    leaves = [leaf for leaf in (theta, z) if leaf.requires_grad]
    gradients = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
    tt = _rows(gradients[0], theta)
    if len(leaves) == 1:
        return DenseHessian(theta.new_zeros(len(z), 0, 0), theta.new_zeros(len(z), 0, len(theta)), tt)
    gradient = gradients[1].flatten(1)
    size = gradient.shape[1]
    together = [_pull(gradient[:, k].sum(), [z])[0].flatten(1) for k in range(size)]
    mixed = [_pull(gradient[j, k], [theta])[0] for j in range(len(z)) for k in range(size)]
    return DenseHessian(torch.stack(together, dim=1), torch.stack(mixed).view(len(z), size, -1), tt)


def surrogate_gradient(block: DenseBlock, inputs: Tensor, cotangent: Tensor) -> Tensor:
    """∇_θ of ⟨g, f(z̄, θ) - f̄⟩ + …: the quadratic part has none at the expansion point."""
    theta = block.vector().requires_grad_()
    return _pull((cotangent * block(inputs, theta)).sum(), [theta])[0]


def check_size(network: DenseNetwork) -> None:
    """Raise ValueError if a network is too large for dense matrices, saying the limit and what to make smaller."""
    samples, outputs = len(network.inputs), network.points[-1][0].numel()
    for block, z in zip(network.blocks, network.points, strict=False):
        named = (
            f"layers {block.block.layers[0].name} to {block.block.layers[-1].name}" if block.block.layers else "a block"
        )
        if block.size > LARGEST_BLOCK:
            raise ValueError(
                f"{named} have {block.size:,} parameters, more than the {LARGEST_BLOCK:,} that dense matrices are made "
                "of: check a narrower network"
            )
        _check_numbers(samples * z[0].numel() * max(block.size, z[0].numel()), f"{samples} samples' inputs of {named}")
    _check_numbers(samples * outputs * sum(block.size for block in network.blocks), f"{samples} samples' outputs")


def _check_numbers(count: int, what: str) -> None:
    if count > LARGEST_JACOBIAN:
        raise ValueError(
            f"the Jacobians of {what} have {count:,} numbers, more than the {LARGEST_JACOBIAN:,} that are kept: "
            "check fewer samples or a narrower network"
        )


def _pull(value: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    return torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)


def _rows(gradient: Tensor, leaf: Tensor) -> Tensor:
    if not len(leaf):
        return leaf.new_zeros(0, 0)
    return torch.stack([_pull(entry, [leaf])[0] for entry in gradient])


def _double(targets: Tensor) -> Tensor:
    return targets.double() if targets.is_floating_point() else targets
