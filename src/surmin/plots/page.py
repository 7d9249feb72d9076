"""A page that opens from disk: text, tables and plots in one self-contained HTML file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from surmin.experiments.files import write_text
from surmin.plots.tables import Table

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p { max-width: 46rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top;
  white-space: nowrap; }
th { border-bottom: 2px solid #1a1a1a; } .number { text-align: right; } .long { white-space: normal; min-width: 12rem; }
small { color: #555; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { font-size: .875rem; color: #444; }
"""
LONG = 50
"""Characters from which a cell of words may be broken into lines."""


@dataclass(frozen=True)
class Picture:
    """A PNG file with its caption, which also stands in for it if it cannot be seen."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading and what follows it: paragraphs, tables and plots."""

    heading: str
    parts: Sequence[str | Table | Picture]


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Replace an HTML file."""
    body = "\n".join(
        f"<h2>{escape(section.heading)}</h2>\n" + "\n".join(map(_render, section.parts)) for section in sections
    )
    write_text(
        path,
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n</body>\n</html>\n",
    )


def _render(part: str | Table | Picture) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>"
    return _render_table(part) if isinstance(part, Table) else _render_picture(part)


def _render_table(table: Table) -> str:
    head = _render_row(table.headings, "th", table.numbers_from)
    body = "\n".join(_render_row(row, "td", table.numbers_from) for row in table.rows)
    return f'<div class="table"><table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _render_row(cells: Sequence[str], tag: str, numbers_from: int) -> str:
    written = [
        f"<{tag}{_kind(cell, is_number=column >= numbers_from)}>{_render_cell(cell)}</{tag}>"
        for column, cell in enumerate(cells)
    ]
    return f"<tr>{''.join(written)}</tr>"


def _kind(cell: str, *, is_number: bool) -> str:
    if is_number:
        return ' class="number"'
    return ' class="long"' if len(cell) > LONG else ""


def _render_cell(cell: str) -> str:
    main, _, aside = cell.partition("\n")
    return escape(main) + (f"<br><small>{escape(aside)}</small>" if aside else "")


def _render_picture(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">\n<figcaption>{caption}</figcaption></figure>'
    )
