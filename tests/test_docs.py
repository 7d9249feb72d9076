"""What the documentation says must be there, parse and run."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import surmin
from surmin.cli import main, parse
from surmin.methods.registry import METHODS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NOT_ALONE = re.compile(r"--8<--|init_process_group|init_device_mesh")
"""Scripts of `examples/`, which have tests of their own, and programs for several processes."""


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def listed(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from listed(inner)


PROGRAMS = [
    pytest.param(text, id=f"{page}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(FENCED.findall(read(page)))
    if language == "python" and not NOT_ALONE.search(text)
]


def test_the_navigation_lists_every_page_once():
    assert sorted(listed(NAV)) == PAGES


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_and_a_row_in_the_table(name):
    assert read(f"methods/{name}.md").startswith("# ")
    assert f"| [`{name}`]({name}.md) |" in read("methods/index.md")


def test_the_reference_has_every_public_name():
    assert set(re.findall(r"^::: surmin\.(\w+)$", read("reference/index.md"), re.MULTILINE)) == set(surmin.__all__)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_run(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if '"run/checkpoint"' in program:
        assert main(["train", "--rounds", "1", "--out", "run"]) == 0
    exec(compile(program, "docs", "exec"), {"__name__": "docs"})


def test_the_commands_parse():
    blocks = "\n".join(text for page in PAGES for _, text in FENCED.findall(read(page)))
    commands = re.findall(r"^surmin (.+)$", blocks.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) > 10
    for words in commands:
        parse([word for word in words.partition(" #")[0].split() if word != "..."])


@pytest.mark.parametrize("page", PAGES)
def test_every_row_of_a_table_has_as_many_cells_as_its_headings(page):
    unquoted = re.sub(r"`[^`\n]*`|\\\|", "", read(page))
    for table in re.findall(r"(?:^\|.*\|\n)+", unquoted, re.MULTILINE):
        cells = [line.count("|") for line in table.splitlines()]
        assert cells == [cells[0]] * len(cells), table


def test_every_example_is_shown_and_led_to_from_a_guide():
    shown = re.findall(r'^--8<-- "examples/(\w+)\.py"$', read("examples.md"), re.MULTILINE)
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles(read("examples.md"))}
    guides = "\n".join(read(page) for page in PAGES if page.startswith("guides/"))
    assert set(re.findall(r"\(\.\./examples\.md#([\w-]+)\)", guides)) == anchors


def titles(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


@pytest.mark.slow
def test_the_site_fetches_nothing_and_shows_every_public_name(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    for name in surmin.__all__:
        assert re.search(rf'id="surmin\.(\w+\.)*{name}"', reference), name
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"', text), page
