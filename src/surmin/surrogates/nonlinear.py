"""The local loss through the block's own nonlinearity: Ψ_i(f_i(z̄, θ)) with M scaled by κ, and no quadratic in θ.

Legend: z̄ the block's input at the expansion point, f̄ = f(z̄, θ̄) its output there, g the gradient of the mean loss at f̄
(per sample, already divided by n), R the columns of the output curvature on the q sampled rows, d = θ - θ̄.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surmin.curvature.factor import GaussNewton, gauss_newton, weighted_sum
from surmin.curvature.output_curvature import Message
from surmin.stages.block import Block
from surmin.stages.stage import Stage, Tape
from surmin.work import WorkMeter


@dataclass(frozen=True)
class SurrogatePiece:
    """Ψ on one micro-batch: z̄, f̄, g, and R with the rows it belongs to (none: all)."""

    inputs: Tensor
    output: Tensor
    cotangent: Tensor
    message: Message

    def project(self, output: Tensor) -> Tensor:
        """Rᵀ(f - f̄) on the sampled rows, (k, q)."""
        columns, *rows = self.message
        change = output - self.output
        return torch.linalg.vecdot(columns.flatten(2), (change[rows[0]] if rows else change).flatten(1))

    def lift(self, coefficients: Tensor) -> Tensor:
        """g + R c at the block's output, (n, *out)."""
        columns, *rows = self.message
        lifted = weighted_sum(columns, coefficients)
        return self.cotangent.index_add(0, rows[0], lifted) if rows else self.cotangent + lifted


@dataclass(frozen=True)
class NonlinearLocalLoss:
    """L(d) = Σ_j ⟨g_j, f_j(θ) - f̄_j⟩ + (κ/2q) Σ_j ‖R_jᵀ(f_j(θ) - f̄_j)‖² + ½ λ‖d‖².

    Attributes:
        block: the block whose parameters are minimised, the only one of a stage of its own.
        pieces: one per micro-batch.
        samples: q, how many samples carry the curvature.
        work: where evaluations are counted.
        inflation: κ.
        damping: λ.
    """

    block: Block
    pieces: Sequence[SurrogatePiece]
    samples: int
    work: WorkMeter
    inflation: float = 1.0
    damping: float = 0.0

    def __call__(self, step: Tensor) -> Tensor:
        """L(d), a 0-dimensional tensor; L(0) = 0."""
        with torch.no_grad():
            return self.value(self.forward(step), step)

    def forward(self, step: Tensor) -> list[Tape]:
        """Run the block at θ̄ + d, one tape per micro-batch."""
        parameters = self.block.moved(step)
        with self.work.phase(self._key("inner forward")):
            return [self.block.stage.forward(piece.inputs, parameters) for piece in self.pieces]

    def value(self, tapes: Sequence[Tape], step: Tensor) -> Tensor:
        """L(d) from the tapes of `forward(d)`."""
        total = 0.5 * self.damping * step.dot(step)
        for piece, tape in zip(self.pieces, tapes, strict=True):
            output = tape.output.detach()
            total = total + (piece.cotangent * (output - piece.output)).sum()
            total = total + self.inflation / (2 * self.samples) * piece.project(output).square().sum()
        return total

    def gradient(self, tapes: Sequence[Tape], step: Tensor) -> Tensor:
        """∇L(d) from the tapes of `forward(d)`, run with gradients enabled; they can be used once."""
        total = self.damping * step
        with self.work.phase(self._key("inner backward")):
            for piece, tape in zip(self.pieces, tapes, strict=True):
                coefficients = self.inflation / self.samples * piece.project(tape.output.detach())
                total = total + torch.cat(self.block.stage.backward(tape, piece.lift(coefficients)))
        return total

    def value_and_gradient(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """L(d) and ∇L(d)."""
        with torch.enable_grad():
            tapes = self.forward(step)
        with torch.no_grad():
            return self.value(tapes, step), self.gradient(tapes, step)

    def linearized(self, tapes: Sequence[Tape]) -> GaussNewton:
        """G at the tapes' point, with the output curvature of the expansion point."""
        with torch.no_grad(), self.work.phase(self._key("inner curvature")):
            return gauss_newton(self.block, tapes, [piece.message for piece in self.pieces], self.samples)[0]

    def damped(self, damping: float) -> "NonlinearLocalLoss":
        """The same local loss with another λ."""
        return replace(self, damping=damping)

    def inflated(self, inflation: float) -> "NonlinearLocalLoss":
        """The same local loss with another κ."""
        return replace(self, inflation=inflation)

    def _key(self, phase: str) -> tuple[str, int, torch.Size]:
        return phase, self.block.index, self.pieces[0].inputs.shape


def nonlinear_local_loss(
    block: Block, tapes: Sequence[Tape], messages: Sequence[Message], samples: int, work: WorkMeter
) -> NonlinearLocalLoss:
    """The local loss of a block from what the waves left: tapes, and the columns at the block's output."""
    pieces = [
        SurrogatePiece(
            inputs=tape.inputs[block.start].detach(),
            output=tape.inputs[block.stop].detach(),
            cotangent=tape.cotangents[block.stop].detach(),
            message=message,
        )
        for tape, message in zip(tapes, messages, strict=True)
    ]
    alone = Block(Stage(block.layers), 0, len(block.layers), block.index)
    return NonlinearLocalLoss(alone, pieces, samples, work)
