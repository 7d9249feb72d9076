"""The sections of a page as Markdown, for a site or a repository."""

from pathlib import Path

from surmin.experiments.files import write_text
from surmin.plots.page import Picture, Section
from surmin.plots.tables import Table


def write_markdown(path: Path, section: Section) -> None:
    """Replace a Markdown file; plots stay separate files, which must be below its folder."""
    write_text(path, "\n".join([f"# {section.heading}\n", *(_render(part, path.parent) for part in section.parts)]))


def _render(part: str | Table | Picture, folder: Path) -> str:
    if isinstance(part, str):
        return f"{part}\n"
    if isinstance(part, Picture):
        return f"![{part.caption}]({part.path.relative_to(folder).as_posix()})\n"
    return _render_table(part)


def _render_table(table: Table) -> str:
    flush = ["---:" if column >= table.numbers_from else "---" for column in range(len(table.headings))]
    return "".join(f"| {' | '.join(map(_render_cell, row))} |\n" for row in (table.headings, flush, *table.rows))


def _render_cell(cell: str) -> str:
    main, _, aside = cell.replace("|", r"\|").partition("\n")
    return f"{main}<br><small>{aside}</small>" if aside else main
