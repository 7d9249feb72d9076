from pathlib import Path

from surmin.plots.markdown import write_markdown
from surmin.plots.page import Picture, Section
from surmin.plots.tables import Table

PAGE = r"""# Losses

Words.

![A picture.](below/curve.png)

| name | loss |
| --- | ---: |
| a\|b | 1<br><small>0 to 2</small> |
"""


def test_a_section(tmp_path: Path) -> None:
    table = Table(["name", "loss"], [["a|b", "1\n0 to 2"]])
    section = Section("Losses", ["Words.", Picture(tmp_path / "below" / "curve.png", "A picture."), table])
    write_markdown(tmp_path / "page.md", section)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == PAGE
