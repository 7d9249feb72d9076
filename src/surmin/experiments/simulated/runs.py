"""The runs that `surmin simulate` computes with: every method trained in every requested combination."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from surmin.data import Dataset
from surmin.experiments.configs.choices import parse_rates
from surmin.experiments.configs.lists import counts
from surmin.experiments.configs.simulate import INNER_STEPS, MINI_BATCHES, SimulateConfig
from surmin.experiments.runs.batches import Batches
from surmin.experiments.runs.losses import make_loss
from surmin.experiments.runs.problem import build_network, load_data, method_options, trainable_layers
from surmin.experiments.runs.processor import set_up_processor
from surmin.experiments.runs.team import ALONE
from surmin.methods.registry import build_method, takes
from surmin.simulation.measuring import Trained, train
from surmin.stages.partition import partition

LEAST_STRETCHED = 3
"""Workers that a run needs to be stretched to more: a first, a last, and one between them to repeat."""
Tell = Callable[[str, int, float], None]
"""Called with what is being trained, after how many rounds, and the loss."""


@dataclass(frozen=True)
class MeasuredRun:
    """One method as it was trained.

    Attributes:
        method: its name.
        lr: its learning rate, None for methods without one.
        batch_size: samples per round, None for all there are.
        inner_steps: None if the method's default was used, or it takes none.
        workers: of the run.
        microbatches: equal parts of the batch.
        trained: the result.
    """

    method: str
    lr: float | None
    batch_size: int | None
    inner_steps: int | None
    workers: int
    microbatches: int
    trained: Trained


class Measuring:
    """Trains what a simulation needs, each thing once.

    Args:
        config: what was requested.
        tell: called with the progress of training.
        warn: called with what does not reach the loss, or cannot be done.
    """

    def __init__(self, config: SimulateConfig, tell: Tell, warn: Callable[[str], None]) -> None:
        set_up_processor(config.threads)
        self._config = config
        self._rates = {method: _rates(config, method) for method in config.method_names}
        self._data: Dataset = load_data(config.experiment, ALONE)
        samples, most = len(self._data.train_inputs), max(counts("microbatches", config.microbatches))
        if most > samples:
            raise ValueError(f"microbatches: {samples} samples cannot be cut into {most}")
        self._tell = tell
        self._warn = warn
        self._layers = trainable_layers(self._network())
        self._check_methods()

    def measured_stages(self) -> list[int]:
        """Worker counts to train with: requested ones that the network can be cut into, or one to be stretched."""
        asked = counts("stages", self._config.stages)
        own = [count for count in asked if count <= self._layers]
        if len(own) < len(asked) and max(own, default=0) < LEAST_STRETCHED:
            if self._layers < LEAST_STRETCHED:
                raise ValueError(f"stages: a network of {self._layers} layers cannot stand for {max(asked)} stages")
            own.append(min(self._layers, 4))
        return own

    def runs(self) -> Iterator[MeasuredRun]:
        """Every method by its best learning rate, in every combination."""
        for method in self._config.method_names:
            for inner_steps, batch_size in product(self._inner_steps(method), self._batch_sizes(method)):
                yield from self._runs_of(method, batch_size, inner_steps)

    def _check_methods(self) -> None:
        """Build every method once: raise ValueError for one that cannot be built, before any is trained."""
        for method in self._config.method_names:
            options = self._options(method, self._rates[method][0], self._inner_steps(method)[0])
            build_method(method, partition(self._network(), 1), make_loss(self._config.loss), **options)

    def _options(self, method: str, lr: float | None, inner_steps: int | None) -> dict[str, Any]:
        """What a method is built with."""
        options = method_options(method, self._data, self._config.options_of(method))
        options |= {"inner_steps": 1} if method == "lbfgs" else {}
        return options | {
            name: value for name, value in (("lr", lr), ("inner_steps", inner_steps)) if value is not None
        }

    def _inner_steps(self, method: str) -> Sequence[int | None]:
        """None for the method's own default."""
        asked = self._config.inner_steps if method in INNER_STEPS else ""
        return counts("inner_steps", asked, may_be_empty=True) or [None]

    def _batch_sizes(self, method: str) -> list[int | None]:
        """None for the full batch."""
        samples = len(self._data.train_inputs)
        asked = counts("batch_sizes", self._config.batch_sizes, zero_allowed=True)
        sizes = [size if 0 < size < samples else None for size in asked if method in MINI_BATCHES]
        return list(dict.fromkeys(sizes)) or [None]

    def _runs_of(self, method: str, batch_size: int | None, inner_steps: int | None) -> Iterator[MeasuredRun]:
        """By every possible cut, with the learning rate that is best for the first cut that reaches the loss."""
        rates = self._rates[method]
        for workers, microbatches in product(self.measured_stages(), self._microbatches(batch_size)):
            tried = [self._run(method, rate, batch_size, inner_steps, workers, microbatches) for rate in rates]
            best = min(filter(None, tried), key=lambda run: run.trained.rounds, default=None)
            if best is not None:
                rates = [best.lr]
                yield best

    def _microbatches(self, batch_size: int | None) -> list[int]:
        """The requested numbers of them that a batch can be cut into; warns about the others."""
        found = []
        for number in counts("microbatches", self._config.microbatches):
            if batch_size is None or number <= batch_size:
                found.append(number)
            else:
                self._warn(f"batch size {batch_size}: cannot be cut into {number} micro-batches; left out")
        return found

    def _run(
        self, method: str, lr: float | None, batch_size: int | None, inner_steps: int | None,
        workers: int, microbatches: int,
    ) -> MeasuredRun | None:  # fmt: skip
        config, inputs, targets = self._config, self._data.train_inputs, self._data.train_targets
        options = self._options(method, lr, inner_steps)
        given = [
            f", {words} {value:g}"
            for words, value in (("lr", lr), ("batch", batch_size), ("N", inner_steps))
            if value is not None
        ]
        size = None if batch_size is None else batch_size // microbatches * microbatches
        most_rounds = config.rounds * (len(inputs) // size if size else 1)
        parts = f"{microbatches} micro-batch{'' if microbatches == 1 else 'es'}"
        name = f"{method}{''.join(given)}, {workers} stage{'' if workers == 1 else 's'}, {parts}"
        trained = train(
            partition(self._network(), workers), make_loss(config.loss), inputs, targets, method, options,
            microbatches=microbatches, target_loss=config.target_loss, most_rounds=most_rounds, seed=config.seed,
            batch=Batches(inputs, targets, size, config.seed).batch if size else None,
            tell=lambda rounds, loss: self._tell(name, rounds * config.rounds // most_rounds, loss),
        )  # fmt: skip
        if trained is None or not trained.rounds:
            reason = "begins there" if trained else f"does not reach it in {most_rounds} rounds"
            self._warn(f"{name}: a loss of {config.target_loss:g}: {reason}; left out")
            return None
        return MeasuredRun(method, lr, size, inner_steps, workers, microbatches, trained)

    def _network(self) -> torch.nn.Sequential:
        model = build_network(self._config.experiment, self._data)
        return model.to(self._data.train_inputs.device, getattr(torch, self._config.dtype))


def _rates(config: SimulateConfig, method: str) -> Sequence[float | None]:
    """Learning rates to try; those for absent methods do not matter."""
    own = [item for item in config.lr if "=" not in item or item.partition("=")[0] == method]
    return parse_rates(own, [method])[method] if takes(method, "lr") else [None]
