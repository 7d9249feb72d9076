"""Training on mini-batches, `sm` and tuned Adam on the same ones, with a score taken off the clock now and then."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.clock import Stopwatch
from benchmarks.harness import Settings, Table, spread
from benchmarks.problems import Problem, batches
from benchmarks.runs import adam_step, surrogate

TUNING_SEED = 1000
Score = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Mark:
    """A score after some updates, and the time they took."""

    updates: int
    seconds: float
    score: float


@dataclass(frozen=True)
class Race:
    """What is trained, how, and when it is looked at.

    Attributes:
        problem: the data and the network.
        batch: samples in a batch.
        score: of a network, at the marks.
        updates: the marks.
        options: of `sm`.
        rates: tried for Adam.
        best: of several scores, min or max.
    """

    problem: Problem
    batch: int
    score: Score
    updates: Sequence[int]
    options: dict[str, Any]
    rates: Sequence[float]
    best: Callable[[Iterable[float]], float]

    def run(self, settings: Settings, seeds: int) -> dict[str, list[list[Mark]]]:
        """By method, then by seed: `sm`, and Adam on the same batches for as many updates and for as much time.

        Adam has the rate for either that was the best at the last mark, on a seed of its own.
        """
        surrogate(self.problem.network(0), 0, **self.options).step(*next(self._batches(0)))  # warm-up
        adam_step(self.problem.network(0), 1e-3)(*next(self._batches(0)))
        settings.note(f"{self.problem.name}: Adam's rates")
        own = self._surrogate(TUNING_SEED)
        tried = {lr: self._adam(TUNING_SEED, lr, lr, own) for lr in self.rates}
        updates, time = (self._best({lr: marks[which] for lr, marks in tried.items()}) for which in (0, 1))
        found: dict[str, list[list[Mark]]] = {"sm": [], f"adam {updates:g}": [], f"adam {time:g}, sm's time": []}
        for seed in settings.seeds(seeds):
            settings.note(f"{self.problem.name}: both methods, seed {seed}")
            own = self._surrogate(seed)
            for marks, new in zip(found.values(), (own, *self._adam(seed, updates, time, own)), strict=True):
                marks.append(new)
        return found

    def _best(self, tried: Mapping[float, list[Mark]]) -> float:
        scores = {lr: marks[-1].score for lr, marks in tried.items()}
        return next(lr for lr, score in scores.items() if score == self.best(scores.values()))

    def _surrogate(self, seed: int) -> list[Mark]:
        model = self.problem.network(seed)
        marks, _ = self._follow(model, surrogate(model, seed, **self.options).step, seed, self.updates, ())
        return marks

    def _adam(self, seed: int, updates: float, time: float, own: Sequence[Mark]) -> tuple[list[Mark], list[Mark]]:
        """With one rate for as many updates as `own`, and with another for as much time."""
        first, second = self.problem.network(seed), self.problem.network(seed)
        at_updates, _ = self._follow(first, adam_step(first, updates), seed, self.updates, ())
        _, at_times = self._follow(second, adam_step(second, time), seed, (), [mark.seconds for mark in own])
        return at_updates, at_times

    def _batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(self.problem.inputs, self.problem.targets, self.batch, seed)

    def _follow(
        self, model: nn.Module, step: Callable[[Tensor, Tensor], Any], seed: int, updates: Sequence[int],
        times: Sequence[float],
    ) -> tuple[list[Mark], list[Mark]]:  # fmt: skip
        return follow(step, self._batches(seed), lambda: self.score(model), self.problem.device, updates, times)


def follow(
    step: Callable[[Tensor, Tensor], Any], data: Iterable[tuple[Tensor, Tensor]], score: Callable[[], float],
    device: torch.device, updates: Sequence[int] = (), times: Sequence[float] = (),
) -> tuple[list[Mark], list[Mark]]:  # fmt: skip
    """Train on batches, taking the score (off the clock) after given numbers of updates, and at given times.

    Args:
        step: one update on a batch.
        data: the batches.
        score: of the network as it is.
        device: where it is.
        updates: when to take the score, ascending.
        times: the same in seconds, ascending; the first update that ends later counts.

    Returns:
        The marks at `updates`, and those at `times`.
    """
    watch = Stopwatch(device)
    at_updates: list[Mark] = []
    at_times: list[Mark] = []
    for count, batch in enumerate(data, start=1):
        with watch:
            step(*batch)
        while len(at_updates) < len(updates) and count >= updates[len(at_updates)]:
            at_updates.append(Mark(count, watch.seconds, score()))
        while len(at_times) < len(times) and watch.seconds >= times[len(at_times)]:
            at_times.append(Mark(count, watch.seconds, score()))
        if len(at_updates) == len(updates) and len(at_times) == len(times):
            break
    return at_updates, at_times


def marks_table(title: str, score: str, found: dict[str, list[list[Mark]]], digits: int) -> Table:
    """Mark by mark, the methods below one another."""
    ours, rows = found["sm"], []
    for position in range(len(ours[0])):
        for method, seeds in found.items():
            at = [own[position] for own in seeds]
            over = [own[position].seconds / mark.seconds for own, mark in zip(ours, at, strict=True)]
            rows.append(
                (
                    method,
                    spread([mark.updates for mark in at]),
                    spread([mark.score for mark in at], digits),
                    spread([mark.seconds for mark in at], 2),
                    "" if seeds is ours else spread(over, 2),
                )
            )
    columns = ("method", "updates", score, "seconds", "seconds, sm's over it")
    return Table(f"{title}, median (range) over {len(ours)} seeds", columns, rows)


def marks_figures(found: dict[str, list[list[Mark]]]) -> dict[str, Any]:
    """For the JSON file."""
    return {method: [[asdict(mark) for mark in own] for own in seeds] for method, seeds in found.items()}
