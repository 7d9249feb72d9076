"""The runs that a comparison consists of."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from surmin.experiments.configs.choices import parse_rates
from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.configs.run import ExperimentConfig, RunConfig
from surmin.methods.registry import flag, takes


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison; `lr` is None for methods that take none."""

    method: str
    lr: float | None
    seed: int
    config: RunConfig

    @property
    def setting(self) -> tuple[str, float | None]:
        """What it has in common with its other seeds."""
        return self.method, self.lr

    @property
    def name(self) -> str:
        """Its folder's name."""
        short = f"{self.lr or 0:g}"
        rate = "" if self.lr is None else f"-lr{short if float(short) == self.lr else self.lr}"
        return f"{self.method.replace(':', '.')}{rate}-seed{self.seed}"


def plan_runs(config: CompareConfig) -> list[PlannedRun]:
    """All runs, method by method, rate by rate, seed by seed.

    Raises:
        ValueError: for an unknown method, an invalid rate, an option that no method takes, or too large a seed.
    """
    config.check()
    replace(config, seed=config.seed + config.seeds - 1).check()
    methods = config.method_names
    given = config.given_options()
    for option in given:
        if not any(takes(method, option) for method in methods):
            raise ValueError(f"none of the methods {', '.join(methods)} takes {flag(option)}")
    rates = parse_rates(config.lr, methods)
    shared = {field.name: getattr(config, field.name) for field in fields(ExperimentConfig)}
    shared = {name: value for name, value in shared.items() if name not in given}
    return [
        _planned(config, method, rate, seed, shared)
        for method in methods
        for rate in rates[method]
        for seed in range(config.seed, config.seed + config.seeds)
    ]


def _planned(config: CompareConfig, method: str, lr: float | None, seed: int, shared: Mapping[str, Any]) -> PlannedRun:
    own = {option: value for option, value in config.given_options().items() if config.has_effect(option, method)}
    return PlannedRun(method, lr, seed, RunConfig(**{**shared, **own, "method": method, "lr": lr, "seed": seed}))
