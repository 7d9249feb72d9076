"""Scalar output curvatures of Appendix A: one L for all samples (`scalar`), or one L_j each (`sample`).

Legend: H the Hessian of Ψ_i∘f_i, λ = λ_max(H_zz), δ > 0 the decoupling constant. Going down, L_{i-1} = λ + δ and
ℍ_i = H_θθ + H_zθᵀ H_zθ / δ; the first block has nothing below it and keeps H_θθ alone.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from surmin.curvature.eigenvalue import lanczos, power_iteration
from surmin.curvature.hessian import HessianProducts, SurrogateHessian, surrogate_hessian
from surmin.curvature.output_curvature import Message
from surmin.curvature.shapes import spread_over
from surmin.losses import ConvexLoss
from surmin.replicas import ONE_REPLICA, Replicas
from surmin.stages.block import Block
from surmin.stages.tape import Tape, joined, layer_inputs
from surmin.work import WorkMeter


class DecoupledHessian:
    """ℍ_i of one block, condition (2) of Lemma 1 with [ℍ_zz - λ I]⁻¹ = I/δ."""

    def __init__(self, hessian: SurrogateHessian, inverse_delta: Tensor | None, samples: int) -> None:
        self.hessian = hessian
        self.inverse_delta = inverse_delta
        self.samples = samples

    def record(self) -> None:
        """Nothing to do: the Hessian has been recorded for λ."""

    def product(self, direction: Tensor) -> Tensor:
        """ℍ v = (1/n) [H_θθ v + H_zθᵀ (H_zθ v) / δ]."""
        if self.inverse_delta is None:
            return self.hessian.own_product(direction) / self.samples
        total, mixed = self.hessian.parameter_product(direction)
        total = total + self.hessian.mixed_transpose(mixed * spread_over(self.inverse_delta, mixed))
        return total / self.samples


class SumOfHessians:
    """ℍ_i as the sum over micro-batches, whose samples do not interact in it."""

    def __init__(self, parts: Sequence[DecoupledHessian]) -> None:
        self.parts = parts

    def record(self) -> None:
        """Nothing to do: every part has been recorded."""

    def product(self, direction: Tensor) -> Tensor:
        """ℍ v = Σ ℍ v of every micro-batch."""
        first, *others = (part.product(direction) for part in self.parts)
        return sum(others, start=first)


@dataclass(frozen=True)
class ScalarCurvature:
    """M_j = L_j I, with L_j the same for all samples or not.

    Attributes:
        per_sample: False for the paper's one number, True for one number per sample (tighter).
        delta: the decoupling constant δ, in per-sample units.
        delta_relative: if given, δ = delta_relative · λ instead.
        power_steps: products spent on λ_max; both methods estimate it from below.
        products: with the Hessian "exact", or by "finite-difference".
        eigenvalue: "power" (the paper's) or "lanczos" (closer for the same number of products).
        replicas: over which the one number is the maximum.
        work: counts power iteration's second search, which not every batch needs.
    """

    per_sample: bool = False
    delta: float = 1.0
    delta_relative: float | None = None
    power_steps: int = 20
    eigenvalue: Literal["power", "lanczos"] = "power"
    products: HessianProducts = "exact"
    replicas: Replicas = field(default=ONE_REPLICA, repr=False)
    work: WorkMeter = field(default_factory=WorkMeter, repr=False, compare=False)

    needs_cotangents = True

    def top(self, loss: ConvexLoss, outputs: Sequence[Tensor], targets: Sequence[Tensor], seed: int) -> list[Message]:
        """L_m, the smoothness constant of the loss."""
        return [(part.new_full((len(part) if self.per_sample else 1,), loss.smoothness(part)),) for part in outputs]

    def outputs_error(self, outputs: Tensor) -> None:
        """None: it can start at any outputs."""

    def message_sizes(self, samples: int, microbatches: int) -> list[int]:
        """One message per micro-batch."""
        return [samples // microbatches] * microbatches

    def arrivals(
        self, tapes: Sequence[Tape], messages: Iterable[Message]
    ) -> Iterator[tuple[Sequence[Tape], Sequence[Message]]]:
        """One micro-batch at a time, or all together for the one L, which is the largest over the whole batch."""
        if self.per_sample:
            yield from (([tape], [message]) for tape, message in zip(tapes, messages, strict=True))
        else:
            yield tapes, list(messages)

    def pack(self, message: Message) -> Message:
        """All of it: it is only a few numbers."""
        return message

    def unpack(self, packed: Message) -> Message:
        """As it was sent."""
        return packed

    def join(self, parts: Sequence[DecoupledHessian]) -> DecoupledHessian | SumOfHessians:
        """ℍ over the samples of all parts."""
        return parts[0] if len(parts) == 1 else SumOfHessians(parts)

    def descend(
        self, block: Block, tapes: Sequence[Tape], messages: Sequence[Message], samples: int, seed: int
    ) -> tuple[DecoupledHessian, list[Message]]:
        """ℍ_i, and L_{i-1} for the block below."""
        inputs, sizes = layer_inputs(tapes, block.start), [len(tape.inputs[block.start]) for tape in tapes]
        cotangent = samples * joined([tape.cotangents[block.stop] for tape in tapes])
        constants = joined([constant.expand(size) for (constant,), size in zip(messages, sizes, strict=True)])
        hessian = surrogate_hessian(block, inputs, cotangent, constants, self.products)
        if block.index == 0:
            return DecoupledHessian(hessian, None, samples), []
        largest = self._largest(hessian, inputs, seed, ("other end", repr(self), block.names, inputs.shape))
        if not self.per_sample:
            largest = self.replicas.largest(largest.max().view(1))
        delta = self._delta(largest) if block.size else torch.zeros_like(largest)
        below = largest + delta  # L_{i-1} = λ + δ
        parts = below.split(sizes) if self.per_sample else [below] * len(sizes)
        return DecoupledHessian(hessian, 1 / delta if block.size else None, samples), [(part,) for part in parts]

    def _largest(self, hessian: SurrogateHessian, inputs: Tensor, seed: int, again: Hashable) -> Tensor:
        """λ_max of every sample's H_zz; all share a starting vector, so that micro-batching changes nothing."""
        generator = torch.Generator(inputs.device).manual_seed(seed)
        vector = torch.randn(inputs.shape[1:], generator=generator, dtype=inputs.dtype, device=inputs.device)
        start = vector.expand_as(inputs).clone()
        if self.eigenvalue == "lanczos":
            return lanczos(hessian.input_product, start, self.power_steps)
        return power_iteration(hessian.input_product, start, self.power_steps, self.work.phase(again))

    def _delta(self, largest: Tensor) -> Tensor:
        if self.delta_relative is None:
            return torch.full_like(largest, self.delta)
        return (self.delta_relative * largest).clamp_min(torch.finfo(largest.dtype).eps)
