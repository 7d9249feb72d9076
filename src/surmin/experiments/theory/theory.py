"""`surmin theory`: Theorem 1 under every curvature, and the local losses' tightness at every depth."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.files import write_table
from surmin.experiments.runs.problem import build_problem, load_data
from surmin.experiments.runs.team import ALONE
from surmin.experiments.theory.theorem import TheoremRun, run_theorem
from surmin.experiments.theory.tightness import CURVATURES, Curvature, LayerTightness, measure_tightness
from surmin.minimizer import SurrogateMinimizer
from surmin.options import Options
from surmin.options.presets import resolve_options
from surmin.pipeline.in_process import InProcessPipeline

Tell = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class NetworkTightness:
    """One network, at its initialisation or after some training.

    Attributes:
        depth: linear layers.
        seed: of its initialisation.
        rounds: of sm since.
        loss: h there.
        layers: every layer under every curvature.
    """

    depth: int
    seed: int
    rounds: int
    loss: float
    layers: Sequence[LayerTightness]


def try_theorem(config: TheoryConfig, tell: Tell) -> list[TheoremRun]:
    """Algorithm 1 from the same θ_0 with every curvature and every N.

    Raises:
        ValueError: if data or network cannot be used.
    """
    return [
        _run_theorem(config, curvature, inner_steps, tell)
        for curvature in CURVATURES
        for inner_steps in config.inner_steps
    ]


def try_tightness(config: TheoryConfig, tell: Tell) -> list[NetworkTightness]:
    """Networks of every depth and seed, before and after some rounds of sm with its default options.

    Raises:
        ValueError: if data or network cannot be used.
    """
    found = []
    for depth in config.depths:
        for number in range(config.seeds):
            tell(f"tightness, {depth} layers", number, config.seeds)
            found += _before_and_after(config, depth, config.seed + number)
        tell(f"tightness, {depth} layers", config.seeds, config.seeds)
    return found


def local_options(config: TheoryConfig, curvature: Curvature, inner_steps: int, seed: int) -> Options:
    """The paper's local losses (ρ = 0, λ = 0), with λ_max(H_zz) by Lanczos to the end: exact."""
    options = resolve_options("paper", {
        "curvature": "sample", "solver": "gd", "inner_steps": inner_steps, "delta": config.delta,
        "delta_relative": config.delta_relative, "eigenvalue": "lanczos", "power_steps": config.width, "seed": seed,
    })  # fmt: skip
    return replace(options, curvature=curvature)  # some of these say nothing to the factor, with which they are refused


def _run_theorem(config: TheoryConfig, curvature: Curvature, inner_steps: int, tell: Tell) -> TheoremRun:
    pipeline, inputs, targets = _problem(config, config.layers, config.seed)
    return run_theorem(
        pipeline, inputs, targets, local_options(config, curvature, inner_steps, config.seed),
        rounds=config.rounds, lanczos_steps=config.lanczos_steps,
        tell=lambda done: tell(f"{curvature}, N = {inner_steps}", done, config.rounds),
    )  # fmt: skip


def _before_and_after(config: TheoryConfig, depth: int, seed: int) -> list[NetworkTightness]:
    pipeline, inputs, targets = _problem(config, depth, seed)
    options = local_options(config, "factor", 1, seed)
    minimizer = SurrogateMinimizer(pipeline, seed=seed)
    found = []
    for rounds in (0, config.training_rounds):
        for _ in range(rounds):
            minimizer.step(inputs, targets)
        layers = measure_tightness(
            pipeline, inputs, targets, options, directions=config.directions, lanczos_steps=config.lanczos_steps
        )
        found.append(NetworkTightness(depth, seed, rounds, float(pipeline.forward(inputs, targets).loss), layers))
    return found


def _problem(config: TheoryConfig, layers: int, seed: int) -> tuple[InProcessPipeline, Tensor, Tensor]:
    experiment = config.problem(layers, seed)
    data = load_data(experiment, ALONE)
    pipeline = build_problem(experiment, data, ALONE).pipeline
    assert isinstance(pipeline, InProcessPipeline)
    return pipeline, data.train_inputs, data.train_targets


def write_theorem(path: Path, runs: Sequence[TheoremRun]) -> None:
    """Replace `theorem.csv`: one line for every run and T."""
    rows = []
    for run in runs:
        start = {"curvature": run.curvature, "inner_steps": run.inner_steps, "seed": run.seed}
        for number, (each, least, line) in enumerate(zip(run.rounds, run.least, run.line, strict=True), start=1):
            rows.append({
                **start, "T": number, "least_gradient_square": least, "line": line, "beta": run.smoothness,
                **asdict(each), "bounded": each.is_bounded, "descended": each.descends(run.smoothness),
            })  # fmt: skip
    write_table(path, list(rows[0]), rows)


def write_tightness(path: Path, found: Sequence[NetworkTightness]) -> None:
    """Replace `tightness.csv`: one line for every network, point, curvature and layer."""
    rows = []
    for network in found:
        start = {"depth": network.depth, "seed": network.seed, "rounds": network.rounds, "loss": network.loss}
        rows += [{**start, **asdict(layer), "is_bound": layer.is_bound} for layer in network.layers]
    write_table(path, list(rows[0]), rows)


def summarize_theorem(run: TheoremRun) -> dict[str, Any]:
    """One run in a few numbers."""
    return {
        "curvature": run.curvature, "inner_steps": run.inner_steps, "seed": run.seed, "rounds": len(run.rounds),
        "beta": run.smoothness, "largest_eigenvalue": max(each.smoothness for each in run.rounds),
        "restarts": run.restarts, "first_loss": run.rounds[0].loss, "last_loss": run.rounds[-1].new_loss,
        "first_gradient_square": run.rounds[0].gradient_square, "least_gradient_square": run.least[-1],
        "line": run.line[-1], "line_below_start_from": run.speaks_from, "above_line": run.above_line,
        "bound_failures": run.bound_failures, "local_failures": run.local_failures,
        "descent_failures": run.descent_failures,
    }  # fmt: skip
