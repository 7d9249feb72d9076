"""Plots of timelines: the paper's Figure 1, from measurements."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from surmin.experiments.traces.timeline import BUSY, Timeline
from surmin.pipeline.tracing import LETTERS, Letter, Span
from surmin.plots.style import PALETTE, RC, entitle, save
from surmin.plots.tables import percent

COLORS: dict[Letter, tuple[str, str]] = {
    "W": ("#f4f4f4", "black"),
    "F": (PALETTE[0], "white"),
    "B": (PALETTE[1], "black"),
    "C": (PALETTE[5], "black"),
    "U": (PALETTE[2], "black"),
    "A": (PALETTE[6], "white"),
}
"""Colours of a box and of its text: they differ even without red or green. Drawn in this order: if one thread waits for
another, its work is seen."""
UTILISATION = ", ".join(letter for letter in COLORS if letter in BUSY)
HOW_TO_READ = f"number: micro-batch;  white: none of these;  utilisation: {UTILISATION}"
HATCH = "#d0d0d0"
BOX_HEIGHT = 0.8
TEXT_POINTS = 7.0
TEXT_MARGIN = 0.6  # points
DIGIT_WIDTH = 0.64  # of the font's size
OUTLINED_FROM = 4.0  # points; the outline would hide narrower boxes
NANOSECONDS = 1e-6  # in ms


def draw_timelines(path: Path, title: str, panels: Mapping[str, Timeline]) -> None:
    """Replace a PNG file: one panel per run, one below the other, all from 0 on the same time axis.

    A row is a worker, rank 0 at the bottom, with its utilisation beside it and the workers' mean in the panel's title.
    Boxes are spans, without what others inside them cover; the micro-batch is written in where there is room.

    Args:
        path: the file.
        title: the first line.
        panels: the runs by their titles.
    """
    with matplotlib.rc_context(RC):
        rows = sum(timeline.workers for timeline in panels.values())
        figure = Figure(figsize=(12.0, 0.48 * rows + 0.8 * len(panels) + 1.2), layout="constrained")
        heights = [timeline.workers for timeline in panels.values()]
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
        for axes, (name, timeline) in zip(grid.flat, panels.items(), strict=True):
            _label_panel(axes, name, timeline)
        longest = max(timeline.end - timeline.start for timeline in panels.values())
        axes.set_xlim(0, max(1, longest) * NANOSECONDS)
        axes.set_xlabel("time (ms)")
        _label(figure, title, panels)
        figure.draw_without_rendering()  # now the width of a box is known
        for axes, timeline in zip(grid.flat, panels.values(), strict=True):
            _draw_boxes(axes, timeline)
        save(figure, path)


def _label_panel(axes: Axes, name: str, timeline: Timeline) -> None:
    axes.set_title(f"{name}: utilisation {percent(1 - timeline.bubble)}", loc="left")
    axes.set_ylim(-0.5, timeline.workers - 0.5)
    axes.set_yticks(
        range(timeline.workers),
        [f"worker {worker}, {percent(share)}" for worker, share in enumerate(timeline.utilisation)],
    )
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=True)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)


def _label(figure: Figure, title: str, panels: Mapping[str, Timeline]) -> None:
    seen = {span.letter for timeline in panels.values() for span in timeline.spans}
    patches = [_legend_patch(letter) for letter in LETTERS if letter in seen]
    entitle(figure, title)
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), title=HOW_TO_READ)


def _legend_patch(letter: Letter) -> Patch:
    label = f"{letter} {LETTERS[letter]}"
    if letter == "W":
        return Patch(facecolor=COLORS[letter][0], edgecolor=HATCH, hatch="////", label=label)
    return Patch(facecolor=COLORS[letter][0], label=label)


def _draw_boxes(axes: Axes, timeline: Timeline) -> None:
    points = axes.bbox.width * 72 / axes.figure.dpi / axes.get_xlim()[1] * NANOSECONDS  # per ns
    for letter, (color, _) in COLORS.items():
        boxes = [piece for piece in timeline.pieces if piece.letter == letter]
        for worker in range(timeline.workers):
            own = [box for box in boxes if box.worker == worker]
            axes.broken_barh(
                [((box.start - timeline.start) * NANOSECONDS, (box.end - box.start) * NANOSECONDS) for box in own],
                (worker - BOX_HEIGHT / 2, BOX_HEIGHT),
                facecolor=color,
                edgecolor=HATCH if letter == "W" else "white",
                linewidth=[0.6 * ((box.end - box.start) * points >= OUTLINED_FROM) for box in own],
                hatch="////" if letter == "W" else None,
            )
        for box in boxes if letter != "W" else []:
            _write_in(axes, box, timeline.start, (box.end - box.start) * points)


def _write_in(axes: Axes, box: Span, start: int, width: float) -> None:
    """The micro-batch, or the letter if there is none, if it fits in so many points."""
    text = box.letter if box.microbatch is None else str(box.microbatch)
    if DIGIT_WIDTH * len(text) * TEXT_POINTS + TEXT_MARGIN > width:
        return
    middle = (box.start + box.end) / 2 - start
    axes.text(
        middle * NANOSECONDS, box.worker, text, color=COLORS[box.letter][1], fontsize=TEXT_POINTS,
        horizontalalignment="center", verticalalignment="center",
    ).set_in_layout(False)  # fmt: skip
