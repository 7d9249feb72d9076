from pathlib import Path

import pytest
from matplotlib.figure import Figure

from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.theory.theory import NetworkTightness
from surmin.experiments.theory.tightness import LayerTightness
from surmin.plots.theory import describe, draw_tightness


@pytest.mark.parametrize(("seeds", "words"), [
    ((1, 1), "; seed 0"), ((2, 2), "; median and range over 2 seeds"),
    ((2, 1), "; median and range over up to 2 seeds"),
])  # fmt: skip
def test_the_title_tells_how_many_seeds_are_drawn(
    seeds: tuple[int, ...], words: str, tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surmin.plots.theory.save", lambda *_: None)
    found = [
        NetworkTightness(depth, seed, rounds, 1.0, [LayerTightness("factor", 1, 2, 2, 2, 2, 2, 0, 2)])
        for depth, count in enumerate(seeds, start=1)
        for seed in range(count)
        for rounds in (0, 10)
    ]
    draw_tightness(tmp_path / "tightness.png", TheoryConfig(seeds=3, depths=(1, 2)), found)
    assert figures[0].get_suptitle().endswith(words)


def test_the_problem_in_words() -> None:
    config = TheoryConfig(data="some/faces-v1.2", train_samples=1000)
    assert describe(config) == "faces-v1.2, 1,000 samples, mlp width 16, tanh"
    assert describe(config, layers=3) == "faces-v1.2, 1,000 samples, mlp 3 × 16, tanh"
