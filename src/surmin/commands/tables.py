"""Tables in the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from surmin.plots.tables import Table

WIDTH = 160  # of tables that do not go to a terminal


def print_table(table: Table) -> None:
    """A table on the standard output."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    drawn = RichTable(box=box.SIMPLE_HEAD)
    for number, heading in enumerate(table.headings):
        drawn.add_column(heading, justify="right" if number >= table.numbers_from else "left")
    for row in table.rows:
        drawn.add_row(*row)
    console.print(drawn)
