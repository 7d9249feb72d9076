"""The plots and pages of the paper's grid: like its Tables 1 to 4, one page per depth, and a page of verdicts."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from surmin.experiments.comparisons.claims import HOW_CLAIMS_ARE_JUDGED, judge
from surmin.experiments.comparisons.paper_runs import Cell, PaperResult, by_cell, cells
from surmin.experiments.comparisons.results import count_seeds
from surmin.experiments.configs.contenders import CONTENDERS, Family
from surmin.experiments.configs.paper import PaperConfig
from surmin.experiments.runs.folder import data_name
from surmin.plots.curves import (
    draw_curve,
    draw_curves,
    explain_ends,
    label_figure,
    mark_ends,
    meaning_of_crosses,
    scale_losses,
    scale_x,
)
from surmin.plots.markdown import write_markdown
from surmin.plots.page import Picture, Section, write_page
from surmin.plots.paper_tables import (
    HOW_RUNS_ENDED,
    WHAT_A_LOSS_COST,
    Groups,
    cell_table,
    cost_table,
    final_table,
    verdict_table,
)
from surmin.plots.run import describe
from surmin.plots.series import AXES, LINES_AND_BANDS, accuracy_curve, loss_curve, visible_axes
from surmin.plots.style import RC, LineStyle, save

ROUNDS = AXES[0]
FAMILIES: dict[Family, str] = {
    "paper": "the paper's methods",
    "curvature": "others that use curvature",
    "first-order": "others with first-order steps",
}
"""What is plotted together, `sm` beside each."""
HOW_TO_READ = (
    "All figures that runs ended with, medians over seeds and ranges. The setting was chosen on another seed: the one "
    "that reached the target in the fewest rounds, else had the lowest loss. A round is one outer iteration of a "
    "method. Work is counted from operations; messages and bytes are those between stages; times leave evaluation out. "
    f"{LINES_AND_BANDS}"
)


def draw_paper(folder: Path, config: PaperConfig, results: Sequence[PaperResult]) -> None:
    """Replace the plots, a page for every depth, `layers8.html` and `.md`, and `report.html` with the verdicts."""
    found = by_cell(results)
    groups = {
        cell: found[cell] for cell in cells(config) if cell in found
    }  # so that colours are the same at all depths
    sections = []
    for layers in config.depths:
        own = {cell: group for cell, group in groups.items() if cell.layers == layers}
        if own:
            section = _draw_depth(folder, config, layers, own)
            write_page(folder / f"layers{layers}.html", section.heading, [section])
            write_markdown(folder / f"layers{layers}.md", section)
            sections.append(section)
    title = f"The paper's grid on {data_name(config.data)}, width {config.width}"
    verdicts = Section("What holds", [HOW_CLAIMS_ARE_JUDGED, verdict_table(judge(results))])
    write_page(folder / "report.html", title, [verdicts, *sections])


def _draw_depth(folder: Path, config: PaperConfig, layers: int, groups: Groups) -> Section:
    seeds = count_seeds(map(len, groups.values())) or f"seed {config.seed}"
    title = f"{describe(config.experiment(layers))}: {seeds}"
    pictures = []
    for family, text in FAMILIES.items():
        own = {cell: group for cell, group in groups.items() if CONTENDERS[cell.contender].family == family}
        if own:
            shown = {cell: group for cell, group in groups.items() if cell in own or cell.contender == "sm"}
            picture = Picture(
                folder / f"layers{layers}-{family}.png", f"Loss and accuracy by N, {text}; median and range."
            )
            _draw_grid(picture.path, f"{title}, {text}", config, shown)
            pictures.append(picture)
            for steps in config.inner_steps:
                costs_path = folder / f"layers{layers}-{family}-costs-N{steps}.png"
                pictures.append(_draw_costs(costs_path, f"{title}, {text}", text, config, steps, shown))
    costs = cost_table(groups)
    cost = (WHAT_A_LOSS_COST, costs) if costs.rows else ()
    return Section(title, [HOW_RUNS_ENDED, final_table(groups), *pictures, *cost, HOW_TO_READ, cell_table(groups)])


def _draw_grid(path: Path, title: str, config: PaperConfig, groups: Groups) -> None:
    """A row for every N: training loss and test accuracy against rounds."""
    names = list(dict.fromkeys(cell.contender for cell in groups))
    styles = dict(zip(names, LineStyle.of_several(len(names)), strict=True))
    curves = {cell: loss_curve(cell.contender, [r.rows for r in group], ROUNDS) for cell, group in groups.items()}
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(12.6, 3.6 * len(config.inner_steps) + 1.4), layout="constrained")
        grid = figure.subplots(len(config.inner_steps), 2, squeeze=False, sharex=True, sharey="col")
        scale_losses(grid[0, 0], list(curves.values()), config.target_loss)
        for steps, (losses, accuracies) in zip(config.inner_steps, grid, strict=True):
            for cell, group in _at(steps, groups).items():
                accuracy = accuracy_curve(cell.contender, [result.rows for result in group], ROUNDS)
                for axes, curve in ((losses, curves[cell]), (accuracies, accuracy)):
                    draw_curve(axes, curve, styles[cell.contender])
                    mark_ends(axes, curve, styles[cell.contender])
            losses.set_ylabel(f"N = {steps}\ntraining loss, log scale")
            accuracies.set_ylabel("test accuracy (%)")
        explain_ends(grid[0, 0], list(curves.values()), meaning_of_crosses(chain(*groups.values())))
        for axes in grid[-1]:
            scale_x(axes, ROUNDS, list(curves.values()))
        label_figure(figure, title, 4)
        save(figure, path)


def _draw_costs(path: Path, title: str, text: str, config: PaperConfig, steps: int, groups: Groups) -> Picture:
    """Training loss against all that it cost, at one N."""
    shown = _at(steps, groups)
    axes = visible_axes([result.rows for group in shown.values() for result in group])
    panels = [
        (axis, [loss_curve(cell.contender, [r.rows for r in group], axis) for cell, group in shown.items()])
        for axis in axes
    ]
    draw_curves(path, f"{title}, N = {steps}", panels, config.target_loss, meaning_of_crosses(chain(*shown.values())))
    return Picture(path, f"Training loss at N = {steps} against what it cost, {text}; median and range.")


def _at(steps: int, groups: Groups) -> dict[Cell, Sequence[PaperResult]]:
    return {cell: group for cell, group in groups.items() if cell.inner_steps in (None, steps)}
