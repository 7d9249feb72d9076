"""Tables in the terminal."""

import re

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from surmin.plots.tables import Table

WIDTH = 160  # of tables that do not go to a terminal
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]\d+)?|–")
"""A cell that is a number, or that stands for a missing one."""


class _Output(Console):
    """Standard output, with an error for whoever ends the program when nothing reads it any more."""

    def on_broken_pipe(self) -> None:
        """Not as its own, which ends the program with an exit code for something else."""
        raise BrokenPipeError


def print_table(table: Table, above: str = "") -> None:
    """A table on standard output, with a paragraph above it; columns with only numbers are right-aligned."""
    console = _Output()
    if not console.is_terminal:
        console.width = WIDTH
    drawn = RichTable(box=box.SIMPLE_HEAD)
    for number, heading in enumerate(table.headings):
        is_flush_right = number >= table.numbers_from or all(NUMBER.fullmatch(row[number]) for row in table.rows)
        drawn.add_column(heading, justify="right" if is_flush_right else "left")
    for row in table.rows:
        drawn.add_row(*row)
    if above:
        console.print(above, markup=False, highlight=False)
    console.print(drawn)
