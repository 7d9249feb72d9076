"""The local loss through the block's own nonlinearity: Ψ_i(f_i(z̄, θ)) with M scaled by κ, and no quadratic in θ.

Legend: z̄ the block's input at the expansion point, f̄ = f(z̄, θ̄) its output there, g the gradient of the mean loss at f̄
(per sample, already divided by n), R the columns of the output curvature on the q sampled rows, d = θ - θ̄.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surmin.curvature.factor import gauss_newton
from surmin.curvature.gauss_newton import GaussNewton, weighted_sum
from surmin.curvature.output_curvature import Message
from surmin.replicas import ONE_REPLICA, Replicas
from surmin.stages.block import Block
from surmin.stages.stage import Stage, Tape, layer_inputs
from surmin.work import WorkMeter


@dataclass(frozen=True)
class NonlinearLocalLoss:
    """L(d) = Σ_j ⟨g_j, f_j(θ) - f̄_j⟩ + (κ/2q) Σ_j ‖R_jᵀ(f_j(θ) - f̄_j)‖² + ½ λ‖d‖².

    Attributes:
        block: the block whose parameters are minimised, the only one of a stage of its own.
        inputs: z̄ of the whole batch, (n, *in).
        output: f̄, (n, *out).
        cotangent: g, (n, *out).
        message: R, and the rows it belongs to (left out: all).
        samples: q, how many samples carry the curvature.
        work: where evaluations are counted.
        replicas: over which sums over samples are averaged.
        inflation: κ.
        damping: λ.
    """

    block: Block
    inputs: Tensor
    output: Tensor
    cotangent: Tensor
    message: Message
    samples: int
    work: WorkMeter
    replicas: Replicas = ONE_REPLICA
    inflation: float = 1.0
    damping: float = 0.0

    def __call__(self, step: Tensor) -> Tensor:
        """L(d), a 0-dimensional tensor; L(0) = 0."""
        with torch.no_grad():
            return self.value(self.forward(step), step)

    def forward(self, step: Tensor) -> Tape:
        """Run the block at θ̄ + d."""
        parameters = self.block.moved(step)
        with self.work.phase(self._key("inner forward")):
            return self.block.stage.forward(self.inputs, parameters)

    def value(self, tape: Tape, step: Tensor) -> Tensor:
        """L(d) from the tape of `forward(d)`."""
        change = tape.output.detach() - self.output
        linear = (self.cotangent * change).sum()
        curved = self.inflation / (2 * self.samples) * self._project(change).square().sum()
        return 0.5 * self.damping * step.dot(step) + self.replicas.mean(linear + curved)

    def gradient(self, tape: Tape, step: Tensor) -> Tensor:
        """∇L(d) from the tape of `forward(d)`, run with gradients enabled; it can be used once."""
        with self.work.phase(self._key("inner backward")):
            coefficients = self.inflation / self.samples * self._project(tape.output.detach() - self.output)
            pulled = torch.cat(self.block.stage.backward(tape, self._lift(coefficients)))
        return self.damping * step + self.replicas.mean(pulled)

    def value_and_gradient(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """L(d) and ∇L(d)."""
        with torch.enable_grad():
            tape = self.forward(step)
        with torch.no_grad():
            return self.value(tape, step), self.gradient(tape, step)

    def linearized(self, tape: Tape) -> GaussNewton:
        """This replica's G at the tape's point, with the output curvature of the expansion point."""
        with torch.no_grad(), self.work.phase(self._key("inner curvature")):
            return gauss_newton(self.block, tape, self.message, self.samples)

    def damped(self, damping: float) -> "NonlinearLocalLoss":
        """The same local loss with another λ."""
        return replace(self, damping=damping)

    def inflated(self, inflation: float) -> "NonlinearLocalLoss":
        """The same local loss with another κ."""
        return replace(self, inflation=inflation)

    def _project(self, change: Tensor) -> Tensor:
        """Rᵀ(f - f̄) on the rows that carry curvature, (k, q)."""
        columns, *rows = self.message
        return torch.linalg.vecdot(columns.flatten(2), (change[rows[0]] if rows else change).flatten(1))

    def _lift(self, coefficients: Tensor) -> Tensor:
        """g + R c at the block's output, (n, *out)."""
        columns, *rows = self.message
        lifted = weighted_sum(columns, coefficients)
        return self.cotangent.index_add(0, rows[0], lifted) if rows else self.cotangent + lifted

    def _key(self, phase: str) -> tuple[str, int, torch.Size]:
        return phase, self.block.index, self.inputs.shape


def nonlinear_local_loss(
    block: Block, tapes: Sequence[Tape], messages: Sequence[Message], samples: int, work: WorkMeter,
    replicas: Replicas = ONE_REPLICA,
) -> NonlinearLocalLoss:  # fmt: skip
    """The local loss of a block from what the waves left: tapes, and the columns at the block's output."""
    columns, *rows = zip(*messages, strict=True)
    return NonlinearLocalLoss(
        block=Block(Stage(block.layers), 0, len(block.layers), block.index),
        inputs=layer_inputs(tapes, block.start),
        output=layer_inputs(tapes, block.stop),
        cotangent=_joined([tape.cotangents[block.stop].detach() for tape in tapes]),
        message=(_joined(columns, dim=1), *map(_joined, rows)),
        samples=samples,
        work=work,
        replicas=replicas,
    )


def _joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
