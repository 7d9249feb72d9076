"""The local loss through the block's own nonlinearity: Ψ_i(f_i(z, θ)), not a quadratic in θ.

Legend: z̄ the block's input at the expansion point, d = θ - θ̄ the step, κ the inflation of Ψ's curvature, λ the damping.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surmin.curvature.factor import gauss_newton
from surmin.curvature.gauss_newton import GaussNewton
from surmin.curvature.output_curvature import Message
from surmin.replicas import ONE_REPLICA, Replicas
from surmin.seeds import draw_seed
from surmin.stages.block import Block
from surmin.stages.recorded import naming, without_checkpoints
from surmin.stages.stage import Stage
from surmin.stages.tape import Tape, joined, layer_inputs
from surmin.surrogates.output_surrogate import OutputSurrogate, QuadraticSurrogate
from surmin.work import WorkMeter


@dataclass(frozen=True)
class LossPoint:
    """A local loss at one step.

    Attributes:
        step: d.
        tape: of the forward pass there.
        value: L(d), 0-dimensional.
        cotangent: computes ∇Ψ at the block's output there.
    """

    step: Tensor
    tape: Tape
    value: Tensor
    cotangent: Callable[[], Tensor]


@dataclass(frozen=True)
class NonlinearLocalLoss:
    """L(d) = Ψ(f(z, θ̄ + d)) + ½ λ‖d‖².

    Attributes:
        block: the block whose parameters are minimised over, alone in its own stage.
        inputs: z of the whole batch, (n, *in): z̄, or what the stages below have made of it since.
        surrogate: Ψ.
        work: counts the evaluations.
        kind: kind of the waves it comes from; equal kinds mean equal work.
        seed: seed of draws.
        replicas: which sums over samples are averaged over.
        damping: λ.
    """

    block: Block
    inputs: Tensor
    surrogate: OutputSurrogate
    work: WorkMeter
    kind: Hashable
    seed: int = 0
    replicas: Replicas = ONE_REPLICA
    damping: float = 0.0

    @property
    def inflation(self) -> float:
        """κ."""
        return self.surrogate.inflation

    def __call__(self, step: Tensor) -> Tensor:
        """L(d), a 0-dimensional tensor; with a quadratic Ψ, L(0) = 0 at z̄."""
        with torch.no_grad():
            return self._point(step).value

    def at(self, step: Tensor) -> LossPoint:
        """L(d), and all that `gradient` and `linearized` need there."""
        with torch.enable_grad():
            return self._point(step)

    def gradient(self, point: LossPoint) -> Tensor:
        """∇L at a point from `at`, which can be used once."""
        with self.work.phase(self.key("inner backward")):
            pulled = torch.cat(self.block.stage.backward(point.tape, point.cotangent()))
        return self.damping * point.step + self.replicas.mean(pulled)

    def value_and_gradient(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """L(d) and ∇L(d)."""
        with torch.no_grad():
            point = self.at(step)
            return point.value, self.gradient(point)

    def linearized(self, point: LossPoint, fraction: float = 1.0, number: int = 0) -> GaussNewton:
        """This replica's G at a point, without κ.

        Args:
            point: from `at`.
            fraction: fraction of the samples with curvature, drawn anew for every number.
            number: of the linearisation.
        """
        seed = self.replicas.own_seed(draw_seed(self.seed, number))
        with torch.no_grad(), self.work.phase((*self.key("inner curvature"), fraction)):
            message = self.surrogate.columns(point.tape.output.detach(), fraction, seed)
            curvature = gauss_newton(self.block, point.tape, message, samples=message[0].shape[1])
            curvature.record()
        return curvature

    def entered_by(self, inputs: Tensor) -> "NonlinearLocalLoss":
        """The same local loss with other activations arriving; L(0) is no longer 0."""
        return replace(self, inputs=inputs)

    def damped(self, damping: float) -> "NonlinearLocalLoss":
        """The same local loss with another λ."""
        return replace(self, damping=damping)

    def inflated(self, inflation: float) -> "NonlinearLocalLoss":
        """The same local loss with another κ."""
        return replace(self, surrogate=self.surrogate.inflated(inflation))

    def key(self, phase: str) -> tuple[Hashable, ...]:
        """The key under which a phase of its work is counted."""
        return phase, self.kind, type(self.surrogate)

    def _point(self, step: Tensor) -> LossPoint:
        """Run the block at θ̄ + d."""
        parameters = self.block.moved(step)
        with self.work.phase(self.key("inner forward")):
            with naming(*self.block.layers), without_checkpoints():
                tape = self.block.stage.forward(self.inputs, parameters)
            with torch.no_grad():
                surrogate = self.surrogate.at(tape.output.detach())
        value = 0.5 * self.damping * step.dot(step) + self.replicas.mean(surrogate.value)
        return LossPoint(step, tape, value, surrogate.cotangent)


def nonlinear_local_loss(
    block: Block, tapes: Sequence[Tape], surrogate: OutputSurrogate, work: WorkMeter, kind: Hashable, seed: int = 0,
    replicas: Replicas = ONE_REPLICA,
) -> NonlinearLocalLoss:  # fmt: skip
    """The local loss of a block at the inputs that the waves left on its tapes."""
    own = Block(Stage(block.layers), 0, len(block.layers), block.index)
    return NonlinearLocalLoss(own, layer_inputs(tapes, block.start), surrogate, work, kind, seed, replicas)


def quadratic_surrogate(
    block: Block, tapes: Sequence[Tape], messages: Sequence[Message], samples: int
) -> QuadraticSurrogate:
    """Ψ of a block from what the waves left: tapes, and the columns at the block's output."""
    columns, *rows = zip(*messages, strict=True)
    return QuadraticSurrogate(
        center=layer_inputs(tapes, block.stop),
        gradient=joined([tape.cotangents[block.stop].detach() for tape in tapes]),
        message=(joined(columns, dim=1), *map(joined, rows)),
        samples=samples,
    )
