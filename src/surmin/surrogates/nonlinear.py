"""The local loss through the block's own nonlinearity: Ψ_i(f_i(z̄, θ)) with M scaled by κ, and no quadratic in θ.

Legend: z̄ the block's input at the expansion point, f̄ = f(z̄, θ̄) its output there, g the gradient of the mean loss at f̄
(per sample, already divided by n), R the columns of the output curvature on the sampled rows, q their number, d = θ - θ̄.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.pipeline.work import WorkMeter
from surmin.stages.block import Block
from surmin.stages.stage import Tape


@dataclass(frozen=True)
class SurrogatePiece:
    """Ψ on one micro-batch."""

    inputs: Tensor
    output: Tensor
    cotangent: Tensor
    columns: Tensor
    rows: Tensor | None

    @property
    def sampled_inputs(self) -> Tensor:
        """The inputs of the samples that carry the curvature."""
        return self.inputs if self.rows is None else self.inputs[self.rows]


@dataclass(frozen=True)
class NonlinearLocalLoss:
    """L(d) = Σ_j ⟨g_j, f_j(θ) - f̄_j⟩ + (κ/2q) Σ_j ‖R_jᵀ(f_j(θ) - f̄_j)‖² + ½ λ‖d‖².

    Attributes:
        block: the block whose parameters are minimised.
        origin: θ̄, a flat vector (P,).
        pieces: one per micro-batch.
        samples: q, how many samples carry the curvature.
        work: where evaluations are counted.
        inflation: κ.
        damping: λ.
    """

    block: Block
    origin: Tensor
    pieces: Sequence[SurrogatePiece]
    samples: int
    work: WorkMeter
    inflation: float = 1.0
    damping: float = 0.0

    def __call__(self, step: Tensor) -> Tensor:
        """L(d), differentiable in the step."""
        parameters = self.origin + step
        total = 0.5 * self.damping * step.dot(step)
        for piece in self.pieces:
            change = self.forward(piece.inputs, parameters) - piece.output
            sampled = change if piece.rows is None else change[piece.rows]
            projected = torch.linalg.vecdot(piece.columns.flatten(2), sampled.flatten(1))
            total = total + (piece.cotangent * change).sum()
            total = total + self.inflation / (2 * self.samples) * projected.square().sum()
        return total

    def value_and_gradient(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """L(d) and ∇L(d)."""
        key = ("local", self.block.index, self.pieces[0].output.shape)
        with torch.enable_grad(), self.work.phase(key):
            leaf = step.detach().requires_grad_()
            value = self(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient

    def forward(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """f(z̄, θ) for a flat θ."""
        state = inputs
        for layer, piece in zip(self.block.layers, self.block.split(parameters), strict=True):
            state = layer.forward(state, layer.unflatten(piece))
        return state

    def damped(self, damping: float) -> "NonlinearLocalLoss":
        """The same local loss with another λ."""
        return replace(self, damping=damping)

    def inflated(self, inflation: float) -> "NonlinearLocalLoss":
        """The same local loss with another κ."""
        return replace(self, inflation=inflation)


def nonlinear_local_loss(
    block: Block, tapes: Sequence[Tape], messages: Sequence[Message], samples: int, work: WorkMeter
) -> NonlinearLocalLoss:
    """The local loss of a block from what the waves left: tapes, and the columns at the block's output."""
    pieces = [
        SurrogatePiece(
            inputs=tape.inputs[block.start].detach(),
            output=tape.inputs[block.stop].detach(),
            cotangent=tape.cotangents[block.stop].detach(),
            columns=columns,
            rows=rows[0] if rows else None,
        )
        for tape, (columns, *rows) in zip(tapes, messages, strict=True)
    ]
    return NonlinearLocalLoss(block, block.vector(), pieces, samples, work)
