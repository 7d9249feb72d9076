"""The forward wave in which every stage chooses its parameters as the activations reach it (waves 4 and 5 in one)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from surmin.pipeline.held_stages import HeldStages
from surmin.pipeline.links import breaks_off_on_error
from surmin.pipeline.wave import Wave
from surmin.stages.stage import Stage
from surmin.stages.tape import LayerParameters, Tape, joined, stacked

Solve = Callable[[Stage, int, Tensor | None], tuple[LayerParameters | None, Tensor]]
"""From a stage, a candidate's number and what enters the stage then (None if unchanged), the stage's parameters (None
for the current ones) and the decrease predicted for them, 0-dimensional."""


class SolvingStages(HeldStages):
    """Stages that solve on the way up: that wave, and the answer that comes back down."""

    @breaks_off_on_error
    def forward_solving(
        self, inputs: Tensor, targets: Tensor, share: Tensor, count: int, solve: Solve
    ) -> tuple[list[Wave], Tensor]:
        """Run the batch at candidates that every stage chooses once it has everything that enters it.

        With one micro-batch one message carries all candidates. With several, whose purpose is that stages work at the
        same time, each candidate goes on as soon as it is solved for.

        Args:
            inputs: the whole batch.
            targets: of the whole batch.
            share: (numbers,), this worker's share of sums that travel with the activations.
            count: of candidates.
            solve: chooses.

        Returns:
            A wave for each candidate, and sums over this worker and those below it: of `share`, then of every
            candidate's predicted decrease.
        """
        messages = [range(count)] if self.microbatches == 1 else [range(own, own + 1) for own in range(count)]
        kind = ("forward", "solving", inputs.shape, len(messages[0]))
        self._links.prepare(kind, len(messages))
        waves = [Wave(inputs.shape, targets.chunk(self.microbatches), []) for _ in range(count)]
        promised = []
        for candidates in messages:
            states: Sequence[Tensor] = [inputs] * len(candidates)
            sums = torch.cat([share.double(), share.new_zeros(len(candidates), dtype=torch.float64)])
            if not self.is_first:
                arrived, below = self._receive(kind)
                states, sums = arrived.unbind(), sums + below
            for position, stage in enumerate(self.stages):
                if position in self._crossings:
                    self.traffic.send((*states, sums))
                leaving = []
                for place, (candidate, state) in enumerate(zip(candidates, states, strict=True), len(share)):
                    parameters, decrease = solve(stage, candidate, state if self.has_below(position) else None)
                    sums[place] += decrease
                    tapes = self._forward_parts(position, state, waves[candidate].part_shape, parameters)
                    waves[candidate].tapes.append(tapes)
                    leaving.append(joined([tape.output.detach() for tape in tapes]))
                states = leaving
            if not self.is_last:
                self._send(kind, (stacked(states), sums))
            promised.append(sums[len(share) :])
        self.traffic.forward_waves += 1
        for wave in waves:
            wave.loss = self.mean_loss(wave)
        return waves, torch.cat([sums[: len(share)], *promised])

    @breaks_off_on_error
    def announce(self, values: Tensor) -> list[float]:
        """Pass what the last worker knows down from worker to worker; the others' values only need the same length.

        Returns the means over replicas.
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

    def _forward_parts(
        self, position: int, state: Tensor, part: torch.Size, parameters: LayerParameters | None
    ) -> list[Tape]:
        """Run one stage here on everything that enters it, by micro-batch."""
        tapes = []
        for number, own in enumerate(state.chunk(self.microbatches)):
            with self.tracer.span("F", number):
                tapes.append(self.forward_stage(position, own, part, parameters))
        return tapes
