"""Matrix output curvature M_j = R_j R_jᵀ (Proposition 1 in its general form), on its way down through the blocks.

Legend: S_j the columns of the loss, ∇²ℓ_j = S_j S_jᵀ (or as many random ones as the rank asks for), R_j those at a
layer's output, J_z the Jacobian of a layer's output in its input.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surmin.curvature.gauss_newton import FactorPiece, GaussNewton
from surmin.curvature.output_curvature import Message
from surmin.curvature.sampling import importance_rows, part_of, weighted
from surmin.curvature.wire import WireName, restore_columns, round_columns
from surmin.losses import ConvexLoss
from surmin.losses.columns import identity_factor, random_sign_factor
from surmin.stages.block import Block
from surmin.stages.tape import Tape, selected

MAX_EXACT_COLUMNS = 1024
"""Outputs per sample up to which a factor is built without a rank."""


@dataclass(frozen=True)
class FactorCurvature:
    """Columns R_j go down the pipe; every layer replaces them with J_zᵀ R_j.

    Attributes:
        rank: random columns per sample, or None for the exact factor of the loss.
        fraction: the fraction of the batch that carries the curvature, in (0, 1].
        top_factor: "hessian" starts from ∇²ℓ, "smoothness" from the paper's bound L I.
        wire: the type that columns are rounded to on their way to another worker; None for the network's type.
        keeps_pieces: leave every block its Gauss-Newton matrix; False if only what arrives at a block is needed.
    """

    rank: int | None = None
    fraction: float = 0.25
    top_factor: Literal["hessian", "smoothness"] = "hessian"
    wire: WireName | None = None
    keeps_pieces: bool = True

    needs_cotangents = False

    def outputs_error(self, outputs: Tensor) -> ValueError | None:
        """An error if an exact factor would have too many columns."""
        count = outputs[0].numel()
        if self.rank is not None or count <= MAX_EXACT_COLUMNS:
            return None
        return ValueError(
            f"the exact factor would have {count} columns per sample, one for every output: "
            "choose a rank for random columns instead, for instance rank=2"
        )

    def message_sizes(self, samples: int, microbatches: int) -> list[int]:
        """As many messages as micro-batches if there are as many samples, of sizes as equal as possible."""
        count = self.sample_count(samples)
        parts = min(microbatches, count)
        return [count // parts + (number < count % parts) for number in range(parts)]

    def top(self, loss: ConvexLoss, outputs: Sequence[Tensor], targets: Sequence[Tensor], seed: int) -> list[Message]:
        """The columns √weight · S_j and the rows of the batch they belong to, in parts; left out: all rows."""
        joined, labels = torch.cat(list(outputs)), torch.cat(list(targets))
        generator = torch.Generator(joined.device).manual_seed(seed)
        sizes = self.message_sizes(len(joined), len(outputs))
        if self.fraction == 1:
            return [(part,) for part in self._columns(loss, joined, labels, generator).split(sizes, dim=1)]
        count = self.sample_count(len(joined))
        rows, weights = importance_rows(loss.trace(joined, labels), count, generator)
        drawn = joined.index_select(0, rows), labels.index_select(0, rows)
        columns = weighted(self._columns(loss, *drawn, generator), weights)
        return list(zip(columns.split(sizes, dim=1), rows.split(sizes), strict=True))

    def arrivals(
        self, tapes: Sequence[Tape], messages: Iterable[Message]
    ) -> Iterator[tuple[Sequence[Tape], Sequence[Message]]]:
        """Each message as it arrives, with the tape of its rows, which may lie in any micro-batch, or its own tape."""
        for number, message in enumerate(messages):
            _, *rows = message
            yield [selected(tapes, *rows) if rows else tapes[number]], [message]

    def descend(
        self, block: Block, tapes: Sequence[Tape], messages: Sequence[Message], samples: int, seed: int
    ) -> tuple[GaussNewton, list[Message]]:
        """The block's Gauss-Newton matrix, and the columns at the block's input."""
        (message,), (tape,) = messages, tapes
        count = self.sample_count(samples)
        if block.index == 0 and not self.keeps_pieces:
            return GaussNewton([], count), []
        own, below = _descend_one(block, tape, message, keeps=self.keeps_pieces, wanted_below=block.index != 0)
        return GaussNewton(own, count), [below]

    def pack(self, message: Message) -> Message:
        """Columns rounded to `wire`, and their scales."""
        if self.wire is None:
            return message
        columns, *rows = message
        return (*round_columns(columns, self.wire), *rows)

    def unpack(self, packed: Message) -> Message:
        """Columns in the network's precision again."""
        if self.wire is None:
            return packed
        columns, scales, *rows = packed
        return (restore_columns(columns, scales), *rows)

    def join(self, parts: Sequence[GaussNewton]) -> GaussNewton:
        """G over the rows of all messages."""
        return GaussNewton.join(parts)

    def sample_count(self, batch: int) -> int:
        """How many samples of a batch carry the curvature, at least one."""
        return part_of(batch, self.fraction)

    def _columns(self, loss: ConvexLoss, outputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        if self.rank is not None and self.top_factor == "smoothness":
            return random_sign_factor(outputs, loss.smoothness(outputs), self.rank, generator)
        if self.rank is not None:
            return loss.sampled_factor(outputs, targets, self.rank, generator)
        if complaint := self.outputs_error(outputs):
            raise complaint
        if self.top_factor == "smoothness":
            return identity_factor(outputs, loss.smoothness(outputs))
        return loss.factor(outputs, targets)


def gauss_newton(block: Block, tape: Tape, message: Message, samples: int) -> GaussNewton:
    """G of a block at the point of a tape of the whole batch.

    Args:
        block: the block.
        tape: of its stage.
        message: the columns at its output and their rows.
        samples: how many samples carry the curvature of the whole batch.
    """
    _, *rows = message
    own = selected([tape], *rows) if rows else tape
    pieces, _ = _descend_one(block, own, message, keeps=True, wanted_below=False)
    return GaussNewton(pieces, samples)


def _descend_one(
    block: Block, tape: Tape, message: Message, *, keeps: bool, wanted_below: bool
) -> tuple[list[FactorPiece], Message]:
    """Pull the columns of one message through a block, keeping those at every trainable layer's output, or none.

    The returned message holds those at the block's input only if they are wanted below.
    """
    columns, *rows = message
    pieces: list[FactorPiece] = []
    for index in reversed(range(block.start, block.stop)):
        layer = block.stage.layers[index]
        piece = FactorPiece(layer, tape.parameters[index], tape.inputs[index].detach(), columns)
        if layer.size and keeps:
            pieces.append(piece)
        if not wanted_below and index == block.first_trainable:
            break
        columns = piece.point.input_vjp(columns)  # R_{i-1} = J_zᵀ R_i
    return pieces[::-1], (columns, *rows)
