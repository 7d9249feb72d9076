"""What the README says must run."""

import re
from pathlib import Path

import pytest

from surmin.cli import parse

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert float(lines[-1].split()[0]) < float(lines[0].split()[0])


def test_the_commands_parse() -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^surmin (.+)$", "\n".join(blocks), re.MULTILINE)
    assert {words.split()[0] for words in commands} == {"train", "compare", "check"}
    for words in commands:
        parse(words.split())


def test_the_pictures_are_there() -> None:
    for target in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).parent.parent / target).is_file(), target
