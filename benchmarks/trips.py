"""Rounds and forward waves of the `trips` preset to 1e-3, beside the defaults of `sm` and Adam as `rounds` tuned it."""

import json
from dataclasses import asdict

from benchmarks.harness import SAVED, Result, Settings, Table, Target, median, number, spread
from benchmarks.problems import Problem, mnist_mlp
from benchmarks.runs import Run, run_adam, run_surrogate

LOSS = 1e-3
ROUND_LIMIT, ADAM_LIMIT = 40, 600
SEEDS = 5
COLUMNS = ("method", "rounds", "forward waves", "seconds", "waves, trips' over it", "accepted rounds without decrease")


def run(settings: Settings) -> Result:
    """8 and 4 layers in 4 stages."""
    result = Result()
    tuned = json.loads((SAVED / "rounds.json").read_text(encoding="utf-8"))
    for layers, rounds in ((4, 3),) if settings.quick else ((8, 5), (4, 3)):
        problem = mnist_mlp(settings, layers)
        adam = tuned[f"relu {layers} × 64"]["tuning"]
        runs = _race(problem, settings, adam["lr"], adam["kind"])
        result.tables.append(_table(problem, runs, adam["lr"]))
        result.figures[problem.name] = {name: [asdict(run) for run in own] for name, own in runs.items()}
        result.targets.extend(_targets(problem.name, runs["trips"], rounds, 7 if layers == 8 else None))
    return result


def _race(problem: Problem, settings: Settings, lr: float, kind: str) -> dict[str, list[Run]]:
    """The methods in turns, seed after seed."""
    runs: dict[str, list[Run]] = {"trips": [], "sm": [], "adam": []}
    run_surrogate(problem, 0, 0, 1, preset="trips", inner_steps=2)
    run_adam(problem, 0, 0, 2, lr, kind)
    for seed in settings.seeds(SEEDS):
        settings.note(f"{problem.name}: all methods, seed {seed}")
        runs["trips"].append(run_surrogate(problem, seed, LOSS, ROUND_LIMIT, preset="trips"))
        runs["sm"].append(run_surrogate(problem, seed, LOSS, ROUND_LIMIT))
        runs["adam"].append(run_adam(problem, seed, LOSS, ADAM_LIMIT, lr, kind))
    return runs


def _table(problem: Problem, runs: dict[str, list[Run]], lr: float) -> Table:
    ours = median([run.reach(LOSS).waves for run in runs["trips"]])
    rows = []
    for name, own in runs.items():
        reached = [run.reach(LOSS) for run in own]
        waves = [milestone.waves for milestone in reached]
        rows.append((
            f"{name} {lr:g}" if name == "adam" else name,
            spread([milestone.rounds for milestone in reached]),
            spread(waves),
            spread([milestone.seconds for milestone in reached], 1),
            "" if name == "trips" else number(ours / median(waves), 2),
            "" if name == "adam" else str(sum(run.rises for run in own)),
        ))  # fmt: skip
    return Table(f"{problem.name} to {LOSS:g}, median (range) over {len(runs['sm'])} seeds", COLUMNS, rows)


def _targets(name: str, runs: list[Run], rounds: int, waves: int | None) -> list[Target]:
    reached = [run.reach(LOSS) for run in runs]
    targets = [Target(f"{name}: rounds to 1e-3, median", median([milestone.rounds for milestone in reached]), rounds)]
    if waves is not None:
        measured = median([milestone.waves for milestone in reached])
        targets.append(Target(f"{name}: forward waves to 1e-3, median", measured, waves))
    rises = sum(run.rises for run in runs)
    return [*targets, Target(f"{name}: accepted rounds that did not lower the loss", rises, 0)]
