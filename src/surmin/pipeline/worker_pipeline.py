"""The five waves over the stages that one worker holds; it is not known here what links them.

In one process one worker holds all stages. The waves then still count what would cross between workers.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from surmin.curvature.output_curvature import Message, OutputCurvature
from surmin.digest import digest_of
from surmin.pipeline.checks.losses import outputs_error
from surmin.pipeline.curvature_wave import CurvatureWave
from surmin.pipeline.exchange import Exchange
from surmin.pipeline.held_stages import Boundaries, Candidates
from surmin.pipeline.leaving import apart_from, memory_of
from surmin.pipeline.links import Kind, breaks_off_on_error
from surmin.pipeline.reuse import AcceptedWave
from surmin.pipeline.seen_batches import Seen, fit_error
from surmin.pipeline.solving_wave import SolvingStages
from surmin.pipeline.wave import BlockExpansion, StageParameters, Wave
from surmin.replicas import ONE_REPLICA
from surmin.seeds import draw_seed
from surmin.stages.block import Block
from surmin.stages.probe import probe
from surmin.stages.stage import Stage
from surmin.stages.tape import stacked


class WorkerPipeline(SolvingStages):
    """The waves, at one worker's place in the pipe; made like `HeldStages`."""

    _accepted: AcceptedWave | None = None
    _exchanges: tuple[Exchange, ...] = ()
    _hears_all = False
    """Whether no first wave of a batch starts before all workers have agreed to it."""

    @breaks_off_on_error
    def forward(
        self, inputs: Tensor, targets: Tensor, boundaries: Boundaries | None = None,
        curvature: OutputCurvature | None = None, spent: Wave | None = None,
    ) -> Wave:  # fmt: skip
        """Run the batch through all stages (wave 1). With gradients enabled, `backward` takes the result, once.

        With the same tensors as an accepted wave and unchanged parameters, that wave is returned.

        Args:
            inputs: the whole batch, the same on every worker of the pipe; its replicas have others as large.
            targets: of the whole batch.
            boundaries: as `backward` will be given them, for schedules that run it together with this wave.
            curvature: what goes down after it.
            spent: an accepted wave whose tapes its owner has released, which is good enough here.

        Raises:
            ValueError: on every worker, if the batch does not fit the network, the loss or the number of micro-batches,
                or is not the same on all workers; or if its outputs cannot have this curvature.
        """
        seen = self.batches.see(inputs, targets, repr(curvature))
        like, complaint = seen.like, seen.complaint
        reused = self._reused(spent) if seen.is_known else None
        self._accepted = None
        if not seen.is_known:
            complaint = complaint or self._misfit(like, inputs, targets, curvature)
        self._compare(seen, targets, complaint, reused)
        if reused is not None:
            return reused
        try:
            wave = self._run_first(inputs, targets, boundaries, is_checked=like is not None)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError) as error:
            if like is None and self.is_first and self.is_last:
                raise fit_error(error) from error
            raise
        if like is None:
            self._links.compare("", self._wave_error(wave, curvature), wait=True)
            like = wave.outputs[0][:1].clone().expand(len(inputs), *wave.outputs[0].shape[1:])
        self.batches.note(seen, inputs, targets, like)
        wave.loss = self.mean_loss(wave)
        return wave

    @breaks_off_on_error
    def forward_candidates(self, inputs: Tensor, targets: Tensor, candidates: Sequence[StageParameters]) -> list[Wave]:
        """Run the batch at several other parameters in one wave (wave 5), whose messages carry all candidates."""
        waves = self._run(inputs, targets, candidates)
        for wave in waves:
            wave.loss = self.mean_loss(wave)
        return waves

    def accept(self, wave: Wave) -> None:
        """Keep a wave run at what are the parameters now: it is the next iteration's first wave on this batch."""
        self._accepted = AcceptedWave.of(wave, self.stages)

    def forget(self) -> None:
        """Run a new wave next time. Call it on all workers after changing parameters on only some of them."""
        self._accepted = None

    @breaks_off_on_error
    @torch.no_grad()
    def backward(
        self, wave: Wave, boundaries: Boundaries | None = None, top: Callable[[int], Tensor] | None = None
    ) -> dict[Stage, list[Tensor]]:
        """Send the gradient down (wave 2).

        Args:
            wave: of a forward pass with gradients enabled.
            boundaries: layers for whose inputs the gradient must be kept on the tapes. If None, only the gradient is
                wanted of the wave: activations are released on the way down, and no curvature can follow.
            top: by micro-batch, the gradient in the network's output to start from, if it is that of another function
                than the mean loss; only called on the worker with the last stage.

        Returns:
            For every stage the gradient of the mean loss in each layer's parameters, one flat vector per layer; over
            the batches of all replicas.
        """
        if wave.gradients is not None and top is None:
            return wave.gradients
        total: dict[Stage, list[Tensor]] = {}
        kind = ("gradient", wave.shape)
        self._links.prepare(kind, len(wave.targets))
        for number in range(len(wave.targets) if self.trainable_below(len(self.stages)) else 0):
            if self.is_last:
                cotangent = self.top_cotangent(wave, number) if top is None else top(number)
            else:
                (cotangent,) = self._receive(kind, number)
            below = self.backward_part(wave, number, cotangent, boundaries, total)
            if below is not None:
                self._send(kind, (below,))
        return self.averaged(self.completed(total))

    @breaks_off_on_error
    @torch.no_grad()
    def curvature(
        self, wave: Wave, gradients: Mapping[Stage, list[Tensor]], blocks: Sequence[Sequence[Block]],
        curvature: OutputCurvature, seed: int,
    ) -> list[BlockExpansion]:  # fmt: skip
        """Send the output curvature down (wave 3), message by message.

        Args:
            wave: after `backward` with `boundaries`, {} for none.
            gradients: what `backward` returned.
            blocks: the blocks of every stage here.
            curvature: the kind of curvature that goes down.
            seed: for its random draws; the same seed gives the same draws however the network is cut.

        Returns:
            Every trainable block here with its share, from the first to the last.

        Raises:
            RuntimeError: if `backward` had no `boundaries` and released what is needed.
        """
        if any(tapes[0].is_released for tapes in wave.tapes):
            raise RuntimeError("the gradient wave released its activations: give backward its boundaries, {} for none")
        sizes = curvature.message_sizes(wave.shape[0], len(wave.targets))
        kinds: list[Kind] = [("curvature", wave.shape, repr(curvature), size) for size in sizes]
        for kind, count in Counter(kinds).items():
            self._links.prepare(kind, count)
        below, _ = self._links.trainable_blocks("layer")
        if not (below or any(block.size for own in blocks for block in own)):
            return []
        crossing = partial(self._cross, curvature=curvature)
        descending = CurvatureWave(wave, blocks, curvature, seed, crossing, self._descending)
        leaving = descending.through_all(self._arriving(wave, curvature, seed, kinds))
        for number, message in enumerate(leaving):
            self._send(kinds[number], curvature.pack(message))
        with self.tracer.span("C"):
            return descending.found(gradients)

    @breaks_off_on_error
    def total(self, values: Tensor) -> list[float]:
        """Sum numbers over all stages: an iteration's one collective. The result is the same on every worker.

        Args:
            values: (numbers,), this worker's share.
        """
        with self.tracer.span("A"):
            return self._links.total(values.double(), self.traffic)

    def exchange(self, upwards: Sequence[str] = (), downwards: Sequence[str] = ()) -> Exchange:
        """Channels between neighbouring stages, by the names of those that lead up and of those that lead down."""
        made = Exchange(self, self._links, self._crossings, upwards, downwards, len(self._exchanges))
        self._exchanges = (*self._exchanges, made)
        return made

    def _misfit(
        self, like: Tensor | None, inputs: Tensor, targets: Tensor, curvature: OutputCurvature | None
    ) -> ValueError | TypeError | None:
        """What is wrong with a batch that is not known, as far as this worker sees before it is sent anywhere."""
        if like is not None:
            return self._outputs_error([like], [targets], curvature)
        if self.is_first and self.group is not None:  # the others would wait in vain
            return self.batches.misfit(inputs.chunk(self.microbatches)[0])
        return None

    def _compare(
        self, seen: Seen, targets: Tensor, complaint: ValueError | TypeError | None, reused: Wave | None
    ) -> None:
        """Tell all workers of a batch and of what is wrong with it, which is raised on all of them."""
        told = [seen.described]
        if seen.is_known:
            told.append("the last batch again")
        elif complaint is None:
            told += self._described_targets(targets)
        if reused is not None:
            told.append("the accepted wave")
        wait = not seen.is_known or (self._hears_all and reused is None)
        self._links.compare(", ".join(told), complaint, wait=wait)

    def _described_targets(self, targets: Tensor) -> list[str]:
        """Some of the numbers in targets that all of a pipe's workers should share; replicas have others."""
        if (self.is_first and self.is_last) or self.replicas is not ONE_REPLICA:
            return []
        return [f"targets {digest_of([('targets', probe(targets))])[:8]}"]

    def _reused(self, spent: Wave | None) -> Wave | None:
        """The accepted wave, if it still fits the parameters and can be used."""
        accepted = self._accepted
        if accepted is None or not (accepted.wave.tapes or accepted.wave is spent) or not accepted.fits(self.stages):
            return None
        return accepted.wave

    def _wave_error(self, wave: Wave, curvature: OutputCurvature | None) -> ValueError | TypeError | None:
        """What is wrong with a batch's way through the stages here, or with its outputs."""
        complaint = self.batches.samples_error([tapes[0] for tapes in wave.tapes])
        return complaint or self._outputs_error(wave.outputs, wave.targets, curvature)

    @torch.no_grad()
    def _outputs_error(
        self, outputs: Sequence[Tensor], targets: Sequence[Tensor], curvature: OutputCurvature | None
    ) -> ValueError | TypeError | None:
        """What is wrong with outputs like these, for their targets or the curvature; only the last worker sees that."""
        if not self.is_last:
            return None
        complaint = outputs_error(self.loss, zip(outputs, targets, strict=True))
        return complaint or (curvature.outputs_error(outputs[0]) if curvature else None)

    def _run_first(self, inputs: Tensor, targets: Tensor, boundaries: Boundaries | None, *, is_checked: bool) -> Wave:
        """A forward wave, which may bring its gradients along; targets are checked before or after it."""
        (wave,) = self._run(inputs, targets, [None])
        return wave

    def _run(self, inputs: Tensor, targets: Tensor, candidates: Candidates) -> list[Wave]:
        parts, labels = inputs.chunk(self.microbatches), targets.chunk(self.microbatches)
        kind = ("forward", inputs.shape, len(candidates))
        self._links.prepare(kind, len(parts))
        by_part = []
        for number, part in enumerate(parts):
            states = [part] * len(candidates) if self.is_first else self._receive(kind, number)[0].unbind()
            by_part.append(self.forward_part(states, candidates, number, part.shape))
            if not self.is_last:
                leaving = stacked([tapes[-1].output.detach() for tapes in by_part[-1]])
                self._send(kind, (apart_from(memory_of(inputs), leaving),))
        self.traffic.forward_waves += 1
        return [
            Wave(inputs.shape, labels, [list(tapes) for tapes in zip(*own, strict=True)])
            for own in zip(*by_part, strict=True)
        ]

    def _arriving(self, wave: Wave, curvature: OutputCurvature, seed: int, kinds: Sequence[Kind]) -> Iterable[Message]:
        if not self.is_last:
            return (curvature.unpack(self._receive(kind, number)) for number, kind in enumerate(kinds))
        with self.tracer.span("C"), self.work.phase(("curvature", wave.shape, repr(curvature), "top")):
            own_seed = self.replicas.own_seed(draw_seed(seed, -1))
            return curvature.top(self.loss, wave.outputs, wave.targets, own_seed)

    @contextmanager
    def _descending(self, number: int, key: Hashable) -> Iterator[None]:
        with self.tracer.span("C", number), self.work.phase(key):
            yield

    def _cross(self, message: Message, position: int, curvature: OutputCurvature) -> Message:
        """What arrives at the stage before `position`, which may be another worker's."""
        if position not in self._crossings:
            return message
        packed = curvature.pack(message)
        self.traffic.send(packed)
        return curvature.unpack(packed)
