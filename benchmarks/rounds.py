"""Rounds, time and work to a training loss on MNIST's first 5,000: `sm` at its defaults, tuned Adam, L-BFGS."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.clock import ratios
from benchmarks.harness import Result, Settings, Table, Target, median, number, spread
from benchmarks.problems import Problem, mnist_mlp
from benchmarks.runs import Milestone, Run, fastest_adam, run_adam, run_lbfgs, run_surrogate

NEAR, FAR = 1e-3, 1e-4
RATES = (1e-3, 3e-3, 5e-3, 1e-2, 2e-2)
LARGER_RATES = (3e-2, 5e-2, 1e-1)
"""Tried one after the other while the largest yet is the best."""
ROUND_LIMIT, ADAM_LIMIT, LBFGS_LIMIT = 60, 600, 2000
TURNS = 2
SEEDS = 5


@dataclass(frozen=True)
class Tuned:
    """Adam's best learning rate, how its step is computed, and the rounds each rate took, one number a seed."""

    lr: float
    kind: str
    rounds: dict[float, list[float]]


def run(settings: Settings) -> Result:
    """8 and 4 layers against the peers; 16 layers and tanh alone."""
    result = Result()
    for layers in (4,) if settings.quick else (8, 4):
        _against_peers(result, settings, layers)
    for layers, activation, limit in () if settings.quick else ((16, "relu", 45), (8, "tanh", 35)):
        _alone(result, settings, layers, activation, limit)
    return result


def _against_peers(result: Result, settings: Settings, layers: int) -> None:
    problem = mnist_mlp(settings, layers)
    _warm_up(problem)
    tuned = _tune(problem, settings)
    runs = _race(problem, settings, tuned)
    result.tables.append(_grid_table(problem, tuned))
    result.tables.append(_race_table(problem, tuned, runs))
    result.targets.extend(_targets(problem, runs))
    figures: dict[str, Any] = {name: [asdict(run) for run in own] for name, own in runs.items()}
    result.figures[problem.name] = {"tuning": asdict(tuned), **figures}


def _warm_up(problem: Problem) -> None:
    run_surrogate(problem, 0, 0, 2)
    run_lbfgs(problem, 0, 0, 2)


def _tune(problem: Problem, settings: Settings) -> Tuned:
    """Run learning rates on all seeds; the best by the median of rounds to 1e-3."""
    kind = fastest_adam(problem)
    rates, limit = (RATES[2:], 150) if settings.quick else (RATES, ADAM_LIMIT)
    rounds: dict[float, list[float]] = {}
    best = rates[-1]
    for lr in (*rates, *LARGER_RATES):
        if lr in LARGER_RATES and best != max(rounds):
            break
        settings.note(f"{problem.name}: adam {lr:g}")
        runs = [run_adam(problem, seed, NEAR, limit, lr, kind) for seed in settings.seeds(SEEDS)]
        rounds[lr] = [run.reach(NEAR).rounds for run in runs]
        best = min(rounds, key=lambda lr: median(rounds[lr]))
    return Tuned(best, kind, rounds)


def _race(problem: Problem, settings: Settings, tuned: Tuned) -> dict[str, list[Run]]:
    """All methods in turns, seed after seed; of the turns of one seed the quicker counts."""
    methods: dict[str, Callable[[int], Run]] = {
        "sm": lambda seed: run_surrogate(problem, seed, FAR, ROUND_LIMIT),
        "adam": lambda seed: run_adam(problem, seed, FAR, ADAM_LIMIT, tuned.lr, tuned.kind),
        "lbfgs": lambda seed: run_lbfgs(problem, seed, FAR, LBFGS_LIMIT),
    }
    runs: dict[str, list[Run]] = {name: [] for name in methods}
    for seed in settings.seeds(SEEDS):
        settings.note(f"{problem.name}: all methods, seed {seed}")
        turns = [{name: train(seed) for name, train in methods.items()} for _ in range(TURNS)]
        for name, own in runs.items():
            own.append(min((turn[name] for turn in turns), key=lambda run: run.seconds[-1]))
    return runs


def _alone(result: Result, settings: Settings, layers: int, activation: str, limit: int) -> None:
    problem = mnist_mlp(settings, layers, activation=activation)
    settings.note(problem.name)
    _warm_up(problem)
    runs = [run_surrogate(problem, seed, FAR, 2 * limit) for seed in settings.seeds(SEEDS)]
    rows = [_row("sm", runs, loss)[:4] for loss in (NEAR, FAR)]
    result.tables.append(Table(f"{problem.name}, median (range) over {len(runs)} seeds", COLUMNS[:4], rows))
    result.targets.append(Target(f"{problem.name}: rounds to 1e-4, median", median(_take(runs, FAR, "rounds")), limit))
    result.targets.append(Target(f"{problem.name}: accepted rounds that did not lower the loss", _rises(runs), 0))
    result.figures[problem.name] = {"sm": [asdict(run) for run in runs]}


def _targets(problem: Problem, runs: dict[str, list[Run]]) -> list[Target]:
    rounds, far = _take(runs["sm"], NEAR, "rounds"), _take(runs["sm"], FAR, "rounds")
    seconds = _take(runs["sm"], NEAR, "seconds")
    against = {name: _take(runs[name], NEAR, "seconds") for name in ("adam", "lbfgs")}
    rounds_ratio = median(rounds) / median(_take(runs["adam"], NEAR, "rounds"))
    name = problem.name
    return [
        Target(f"{name}: rounds to 1e-3, median", median(rounds), 15),
        Target(f"{name}: rounds to 1e-4, median", median(far), 19),
        Target(f"{name}: rounds to 1e-4, worst seed", max(far), 25),
        Target(f"{name}: rounds to 1e-3 over Adam's", rounds_ratio, 1 / 8),
        Target(f"{name}: seconds to 1e-3 over Adam's", median(ratios(seconds, against["adam"])), 1),
        Target(f"{name}: seconds to 1e-3 over L-BFGS's", median(ratios(seconds, against["lbfgs"])), 0.5),
        Target(f"{name}: accepted rounds that did not lower the loss", _rises(runs["sm"]), 0),
    ]


COLUMNS = ("to a loss", "rounds", "seconds", "gradients' work", "rounds, sm's over it", "seconds, sm's over it")


def _race_table(problem: Problem, tuned: Tuned, runs: dict[str, list[Run]]) -> Table:
    labels = {"sm": "sm", "adam": f"adam {tuned.lr:g} ({tuned.kind})", "lbfgs": "lbfgs (evaluations)"}
    rows = [_row(labels[name], own, loss, runs["sm"]) for loss in (NEAR, FAR) for name, own in runs.items()]
    return Table(f"{problem.name}, median (range) over {len(runs['sm'])} seeds", COLUMNS, rows)


def _row(label: str, runs: list[Run], loss: float, ours: list[Run] | None = None) -> tuple[str, ...]:
    rounds, seconds, work = (_take(runs, loss, what) for what in ("rounds", "seconds", "work"))
    shown = (f"{label} to {loss:g}", spread(rounds), spread(seconds, 2), spread(work))
    if ours is None or ours is runs:
        return (*shown, "", "")
    over_rounds = median(_take(ours, loss, "rounds")) / median(rounds)
    return (*shown, number(over_rounds, 3), spread(ratios(_take(ours, loss, "seconds"), seconds), 2))


def _grid_table(problem: Problem, tuned: Tuned) -> Table:
    rows = [(f"{lr:g}", spread(rounds), "best" if lr == tuned.lr else "") for lr, rounds in tuned.rounds.items()]
    return Table(f"{problem.name}: Adam's rounds to 1e-3", ("learning rate", "rounds", ""), rows)


def _take(runs: list[Run], loss: float, what: str) -> list[float]:
    milestones: list[Milestone] = [run.reach(loss) for run in runs]
    return [getattr(milestone, what) for milestone in milestones]


def _rises(runs: list[Run]) -> int:
    return sum(run.rises for run in runs)
