"""`surmin check`."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from surmin.exit_codes import CHECK_FAILED, SUCCESS
from surmin.experiments.configs.check import CheckConfig
from surmin.experiments.runs.files import write_json
from surmin.experiments.runs.folder import check_unclaimed, claim_folder, default_folder
from surmin.experiments.runs.problem import build_problem, load_data
from surmin.experiments.runs.processor import set_up_processor
from surmin.experiments.runs.team import ALONE
from surmin.experiments.theory.check import CheckResult, check_network

WIDTH = 120  # of tables that do not go to a terminal


def check(config: CheckConfig, out: Path | None) -> int:
    """Check a network, write check.json, and print what was found; 1 when gradients, blocks or Lemma 1 are wrong."""
    config.check()
    path = out or default_folder("check", config.data)
    check_unclaimed(path)
    set_up_processor(config.threads)
    data = load_data(config.experiment, ALONE)
    problem = build_problem(config.experiment, data, ALONE)
    result = check_network(
        problem.modules, problem.pipeline.loss, data.train_inputs, data.train_targets,
        radii=config.radii, trials=config.trials, curvature=config.curvature, blocks=config.blocks, delta=config.delta,
        power_steps=config.power_steps, eigenvalue=config.eigenvalue, seed=config.seed,
    )  # fmt: skip
    claim_folder(path)
    write_json(path / "check.json", {"command": "check", "options": config.to_json(), **result.to_json()})
    print_result(result)
    print(f"written: {path / 'check.json'}")
    return SUCCESS if result.holds else CHECK_FAILED


def print_result(result: CheckResult) -> None:
    """Two tables on the standard output, and a line that says whether everything holds."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(block_table(result))
    console.print(bound_table(result))
    verdict = "hold" if result.holds else "do NOT hold"
    start = f"{result.curvature}, {result.samples} samples, {result.dtype}"
    console.print(f"{start}: gradients, blocks and Lemma 1 {verdict} up to {result.tolerance:.0e}")
    if result.underestimates:
        console.print("λ_max(H_zz) is underestimated: try more --power-steps, or --eigenvalue lanczos")


def block_table(result: CheckResult) -> Table:
    """One line a block."""
    table = _table(
        "layers", "parameters", "gradient error", "block error", "λ_max short by", "condition 1", "condition 2", "holds"
    )
    for block in result.blocks:
        first, last = block.layers
        table.add_row(
            first if first == last else f"{first} to {last}", f"{block.parameters:,}", _short(block.gradient_error),
            _short(block.block_error), _short(block.eigenvalue_error), _short(block.condition_1),
            _short(block.condition_2), "yes" if block.holds(result.tolerance) else "NO",
        )  # fmt: skip
    return table


def bound_table(result: CheckResult) -> Table:
    """One line a radius."""
    table = _table("‖d‖ / ‖θ‖", "steps", "bound failed", "worst excess")
    for bound in result.bound:
        table.add_row(f"{bound.radius:g}", str(bound.trials), str(bound.failures), _short(bound.worst_excess))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
