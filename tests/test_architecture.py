"""The folders' order in docs/architecture.md is the order in which they import each other, within experiments/ too."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "surmin"
ENTRANCES = {"__init__", "__main__"}


def rows() -> dict[str, int]:
    """The row of every folder and file of the package in the table."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (`.*?) \| ", text.split("`tests/` mirrors this")[0], re.MULTILINE)
    names = [re.findall(r"`(\w+)(?:\.py|/)`", cell) for cell in table]
    return {name: row for row, own in enumerate(names) for name in own}


def folders_of_experiments() -> list[str]:
    """In the order in which their row names them."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| `experiments/`"))
    return re.findall(r"`(\w+)(?:\.py|/)`", row)[1:]


def test_the_table_has_every_folder_and_file() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(rows()) == found - ENTRANCES


def test_every_folder_of_modules_is_a_package() -> None:
    assert {path.parent for path in PACKAGE.rglob("*.py")} == {path.parent for path in PACKAGE.rglob("__init__.py")}


def test_every_module_imports_from_its_own_row_and_those_above() -> None:
    row = rows()
    for path in sorted(PACKAGE.rglob("*.py")):
        importer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if importer in ENTRANCES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("surmin."):
                imported = (node.module or "").split(".")[1]
                assert row[imported] <= row[importer], f"{path.relative_to(ROOT)} imports surmin.{imported}"


def test_folders_of_experiments_import_from_those_named_before_them() -> None:
    order = folders_of_experiments()
    for path in sorted((PACKAGE / "experiments").rglob("*.py")):
        importer = path.relative_to(PACKAGE / "experiments").parts[0].removesuffix(".py")
        if importer in ENTRANCES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("surmin.experiments."):
                imported = (node.module or "").split(".")[2]
                assert order.index(imported) <= order.index(importer), f"{path.name} imports {imported}"
