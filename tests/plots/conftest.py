import pytest
from matplotlib.figure import Figure

from surmin.plots import breakeven, curves, paper, theory, timeline


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures made while the test runs."""
    made: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            made.append(self)

    for module in (breakeven, curves, paper, theory, timeline):
        monkeypatch.setattr(module, "Figure", Kept)
    return made
