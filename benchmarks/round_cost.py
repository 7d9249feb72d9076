"""One round of `sm` at its defaults in measured gradients, and where its time goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from torch import nn

from benchmarks.clock import Stopwatch
from benchmarks.harness import CannotRunError, Result, Settings, Table, Target, median, number, spread
from benchmarks.phases import PhaseTimer
from benchmarks.problems import Problem, gaussian_mlp, mnist_mlp
from benchmarks.runs import STAGES, gradient
from surmin import CrossEntropy, SurrogateMinimizer, partition
from surmin.pipeline.in_process import InProcessPipeline

SAMPLES = 5000
LIMIT = 12
ROUNDS = 15
SEEDS = 3


@dataclass(frozen=True)
class Cost:
    """One run: seconds of every round and of a gradient beside it, seconds by phase, and work as counted."""

    rounds: list[float]
    gradients: list[float]
    phases: Mapping[str, float]
    counted: list[float]

    @property
    def ratio(self) -> float:
        """A round in measured gradients, the mean over the run: rejected steps are paid for too."""
        return sum(self.rounds) / sum(self.gradients)


def measure_rounds(result: Result, settings: Settings) -> None:
    """Rounds at 8 × 256, each with a gradient beside it, and where their time goes."""
    problem = _round_problem(settings)
    settings.note(f"rounds on {problem.name}")
    _measure(problem, 0, 2)  # warm-up
    costs = [_measure(problem, seed, 3 if settings.quick else ROUNDS) for seed in settings.seeds(SEEDS)]
    found = [cost.ratio for cost in costs]
    title = f"One round on {problem.name}, mean over {len(costs[0].rounds)} rounds: in measured gradients"
    result.tables.append(Table(title, ("", "gradients", "part of the round"), _phase_rows(costs)))
    what = f"a round on {problem.name} in measured gradients"
    result.targets.append(Target(f"{what}, median over seeds", median(found), LIMIT))
    result.figures["rounds"] = [vars(cost) for cost in costs]


def _round_problem(settings: Settings) -> Problem:
    """MNIST, whose rejections are the real ones; Gaussian data where it is not."""
    try:
        return mnist_mlp(settings, 8, 256)
    except CannotRunError:
        return gaussian_mlp(settings.device, 8, 32 if settings.quick else 256, SAMPLES)


def _measure(problem: Problem, seed: int, rounds: int) -> Cost:
    model = problem.network(seed)
    timer = PhaseTimer(problem.device)
    minimizer = _timed_minimizer(model, seed, timer)
    compute = gradient(problem, model)
    cost = Cost([], [], timer.seconds, [])
    for _ in range(rounds):
        ours, peer = Stopwatch(problem.device), Stopwatch(problem.device)
        with ours:
            report = minimizer.step(problem.inputs, problem.targets)
        with peer:
            compute()
        cost.rounds.append(ours.seconds)
        cost.gradients.append(peer.seconds)
        cost.counted.append(report.gradient_equivalents)
    return cost


def _timed_minimizer(model: nn.Sequential, seed: int, timer: PhaseTimer) -> SurrogateMinimizer:
    pipeline = InProcessPipeline(partition(model, STAGES), CrossEntropy())
    pipeline.work = timer
    return SurrogateMinimizer(pipeline, seed=seed)


PHASES = {
    "forward": "forward passes: every candidate step",
    "backward": "backward wave",
    "curvature": "curvature wave",
    "moments": "local phase: moments",
    "invert": "local phase: preconditioner",
    "precondition": "local phase: applying it",
    "product": "local phase: curvature products",
}


def _phase_rows(costs: list[Cost]) -> list[tuple[str, str, str]]:
    rounds, gradients = sum(sum(cost.rounds) for cost in costs), sum(sum(cost.gradients) for cost in costs)
    shares = {label: sum(cost.phases.get(key, 0.0) for cost in costs) for key, label in PHASES.items()}
    shares["everything else"] = rounds - sum(shares.values())
    rows = [(label, number(t / gradients, 2), f"{t / rounds:.0%}") for label, t in shares.items()]
    counted = fmean(value for cost in costs for value in cost.counted)
    return [
        *rows,
        ("the whole round, median (range) over seeds", spread([cost.ratio for cost in costs], 2), "100%"),
        ("the whole round, in operations counted", number(counted, 2), ""),
    ]
