"""How plots look: colours that everyone can tell apart, with markers and line styles that differ as well."""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from surmin.experiments.files import replacing

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), without the yellow: too faint on white."""
NO_COLOR = "#666666"
"""Of marks that belong to no particular curve."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
COLOURS = 256
DASHES = ("-", "--", "-.", ":")
NARROWEST, WIDEST, WIDER = 1.5, 3.2, 0.25  # lines, in points; by how much one is wider than the next at most

RC: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "savefig.dpi": 130,
}
"""matplotlib's settings."""


@dataclass(frozen=True)
class LineStyle:
    """Colour, marker, dashes and width of one curve, and the points at which its markers start."""

    color: str
    marker: str
    dashes: str
    width: float = NARROWEST
    first_marked: int = 0

    @classmethod
    def number(cls, index: int) -> "LineStyle":
        """The style of the curve with that number; no two of the first hundred are the same."""
        return cls(PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])

    @classmethod
    def of_several(cls, count: int) -> list["LineStyle"]:
        """The styles of so many curves of one picture.

        The first is the widest, and each has its markers elsewhere: one that lies exactly below another still shows.
        """
        widths = np.linspace(min(WIDEST, NARROWEST + WIDER * (count - 1)), NARROWEST, count)
        return [replace(cls.number(index), width=width, first_marked=index) for index, width in enumerate(widths)]


def entitle(figure: Figure, title: str, **options: Any) -> None:
    """Put a title over a figure, verbatim: two $ in a file's name must not become a formula."""
    figure.suptitle(title.replace("$", r"\$"), wrap=True, **options)


def save(figure: Figure, path: Path) -> None:
    """Replace a plot, reduced to as many colours as fit in a byte: a third of the size, and it looks the same."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as image, replacing(path) as unfinished:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(unfinished, format="png", optimize=True)
