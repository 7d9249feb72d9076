"""The forward wave in which every stage chooses its parameters as the activations reach it (waves 4 and 5 in one)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from surmin.pipeline.held_stages import HeldStages, stacked
from surmin.pipeline.wave import Wave
from surmin.stages.stage import LayerParameters, Stage

Solve = Callable[[Stage, int, Tensor | None], tuple[LayerParameters | None, Tensor]]
"""Of a stage, a candidate's number and what enters the stage then (None where that has not changed), the stage's
parameters (None for the current ones) and the decrease that is promised for them, 0-dimensional."""


class SolvingWave(HeldStages):
    """The wave and the answer that comes back down."""

    def forward_solving(
        self, inputs: Tensor, targets: Tensor, share: Tensor, count: int, solve: Solve
    ) -> tuple[list[Wave], Tensor]:
        """Run the batch at candidates that every stage chooses when it has all that enters it.

        Args:
            inputs: the whole batch.
            targets: of the whole batch.
            share: (numbers,), this worker's share of sums that travel with the activations.
            count: of candidates.
            solve: chooses.

        Returns:
            A wave for each candidate, and sums over this worker and those below it: of `share`, then of every
            candidate's promised decrease.
        """
        parts, labels = inputs.chunk(self.microbatches), targets.chunk(self.microbatches)
        kind = ("forward", "solving", inputs.shape, count)
        self._links.prepare(kind, len(parts))
        states: list[Sequence[Tensor]] = [[part] * count for part in parts]
        sums = torch.cat([share.double(), share.new_zeros(count, dtype=torch.float64)])
        if not self.is_first:
            arrived = [self._receive(kind, number) for number in range(len(parts))]
            states, sums = [message[0].unbind() for message in arrived], sums + arrived[-1][1]
        waves = [Wave(inputs.shape, labels, []) for _ in range(count)]
        for position, stage in enumerate(self.stages):
            if position in self._crossings:
                for part in states:
                    self.traffic.send((*part, sums))
            for candidate, wave in enumerate(waves):
                own = [part[candidate] for part in states]
                parameters, promised = solve(stage, candidate, torch.cat(own) if self.has_below(position) else None)
                sums[len(share) + candidate] += promised
                wave.tapes.append([])
                for number, state in enumerate(own):
                    with self.tracer.span("F", number):
                        wave.tapes[-1].append(self.forward_stage(position, state, parts[0].shape, parameters))
            states = [[wave.tapes[-1][number].output.detach() for wave in waves] for number in range(len(parts))]
        if not self.is_last:
            for part in states:
                self._send(kind, (stacked(part), sums))
        self.traffic.forward_waves += 1
        for wave in waves:
            wave.loss = self.mean_loss(wave)
        return waves, sums

    def announce(self, values: Tensor) -> list[float]:
        """Hand what the last worker knows down from worker to worker; the others' values only have the same length.

        Replicas' means come out.
        """
        kind = ("verdict", len(values))
        self._links.prepare(kind, 1)
        if self.is_last:
            with self.tracer.span("A"):
                values = self.replicas.mean(values.double())
        else:
            (values,) = self._receive(kind)
        for _ in self._crossings:
            self.traffic.send((values,))
        if not self.is_first:
            self._send(kind, (values,))
        return [float(value) for value in values.tolist()]
