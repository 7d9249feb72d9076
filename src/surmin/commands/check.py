"""`surmin check`."""

from pathlib import Path

from surmin.commands.tables import print_table
from surmin.exit_codes import CHECK_FAILED, SUCCESS
from surmin.experiments.configs.check import CheckConfig
from surmin.experiments.configs.saved import document
from surmin.experiments.files import write_json
from surmin.experiments.runs.folder import claimed, default_folder
from surmin.experiments.runs.problem import build_problem, load_data
from surmin.experiments.runs.processor import set_up_processor
from surmin.experiments.runs.team import ALONE
from surmin.experiments.theory.check import CheckResult, check_network
from surmin.plots.tables import Table


def check(config: CheckConfig, out: Path | None) -> int:
    """Check a network, write check.json, and print what was found; 1 if gradients, blocks or Lemma 1 are wrong."""
    config.check()
    path = out or default_folder("check", config.data)
    with claimed(path):
        result = _check(config)
        write_json(path / "check.json", document(config, **result.to_json()))
    print_result(result)
    print(f"written: {path / 'check.json'}")
    return SUCCESS if result.holds else CHECK_FAILED


def _check(config: CheckConfig) -> CheckResult:
    set_up_processor(config.threads)
    data = load_data(config.experiment, ALONE)
    problem = build_problem(config.experiment, data, ALONE)
    return check_network(
        problem.modules, problem.pipeline.loss, data.train_inputs, data.train_targets,
        radii=config.radii, trials=config.trials, curvature=config.curvature, blocks=config.blocks, delta=config.delta,
        power_steps=config.power_steps, eigenvalue=config.eigenvalue, seed=config.seed,
    )  # fmt: skip


def print_result(result: CheckResult) -> None:
    """Two tables on standard output, and a line that says whether everything holds."""
    print_table(block_table(result))
    print_table(bound_table(result))
    verdict = "hold" if result.holds else "do NOT hold"
    start = f"{result.curvature}, {result.samples} samples, {result.dtype}"
    print(f"{start}: gradients, blocks and Lemma 1 {verdict} up to {result.tolerance:.0e}")
    if result.underestimates:
        print("λ_max(H_zz) is underestimated: try more --power-steps, or --eigenvalue lanczos")


def block_table(result: CheckResult) -> Table:
    """One line per block."""
    headings = (
        "layers", "parameters", "gradient error", "block error", "λ_max short by", "condition 1", "condition 2", "holds"
    )  # fmt: skip
    rows = []
    for block in result.blocks:
        first, last = block.layers
        errors = (
            block.gradient_error, block.block_error, block.eigenvalue_error, block.condition_1, block.condition_2
        )  # fmt: skip
        layers = first if first == last else f"{first} to {last}"
        holds = "yes" if block.holds(result.tolerance) else "NO"
        rows.append((layers, f"{block.parameters:,}", *map(_short, errors), holds))
    return Table(headings, rows, numbers_from=0)


def bound_table(result: CheckResult) -> Table:
    """One line per radius."""
    rows = [(f"{b.radius:g}", str(b.trials), str(b.failures), _short(b.worst_excess)) for b in result.bound]
    return Table(("‖d‖ / ‖θ‖", "steps", "bound failed", "worst excess"), rows, numbers_from=0)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
