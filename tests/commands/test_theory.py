import csv
import json
from pathlib import Path

import numpy as np
import pytest

from surmin.cli import main
from surmin.commands.theory import theorem_table
from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.theory.theorem import TheoremRound, TheoremRun
from surmin.experiments.theory.theory import NetworkTightness
from surmin.experiments.theory.tightness import LayerTightness
from surmin.plots.theory import spread_by_layer

TINY = [
    "theory", "--train-samples", "12", "--width", "4", "--layers", "2", "--rounds", "2", "--inner-steps", "1", "2",
    "--depths", "1", "2", "--seeds", "2", "--training-rounds", "1", "--directions", "2", "--lanczos-steps", "3",
]  # fmt: skip
PNG = b"\x89PNG"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_theory_writes_tables_and_pictures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "theory"
    assert main([*TINY, "--out", str(folder)]) == 0
    output, errors = capfd.readouterr()
    assert errors == "" and "2β(h₀ - 0)/T" in output and "theorem.png" in output
    names = {"theory.json", "theorem.csv", "theorem.png", "tightness.csv", "tightness.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert all((folder / name).read_bytes().startswith(PNG) for name in names if name.endswith("png"))
    written = json.loads((folder / "theory.json").read_text(encoding="utf-8"))
    assert written["options"]["depths"] == [1, 2] and len(written["theorem"]) == 6
    theorem, tightness = read(folder / "theorem.csv"), read(folder / "tightness.csv")
    assert len(theorem) == 3 * 2 * 2 and len(tightness) == 2 * 2 * 3 * (1 + 2)
    for row in theorem:
        line = 2 * float(row["beta"]) * float(theorem[0]["loss"]) / int(row["T"])
        assert float(row["line"]) == pytest.approx(line)
        assert float(row["least_gradient_square"]) <= float(row["line"])
    assert {row["curvature"] for row in tightness} == {"scalar", "sample", "factor"}
    assert {(row["seed"], row["rounds"]) for row in tightness} == {("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")}
    assert main([*TINY, "--out", str(folder)]) == 2
    assert "is not empty" in capfd.readouterr().err


@pytest.mark.parametrize(("words", "message"), [
    (["--activation", "relu"], "activation 'relu' is not smooth, which the theorem requires"),
    (["--depths", "2", "2"], "depths must be one or more different whole numbers from 1 up, got [2, 2]"),
    (["--inner-steps", "0"], "inner_steps must be one or more different whole numbers from 1 up, got [0]"),
    (["--rounds", "0"], "rounds must be at least 1, got 0"), (["--seeds", "0"], "seeds must be at least 1, got 0"),
    (["--delta", "-1"], "delta must be positive, got -1.0"), (["--layers", "0"], "layers must be at least 1, got 0"),
    (["--data", "text"], "mlp needs numbers, this data has token ids"),
], ids=str)  # fmt: skip
def test_what_cannot_be_tried_is_refused(
    words: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "theory"
    assert main(["theory", *words, "--out", str(folder)]) == 2
    assert message in capfd.readouterr().err
    assert not folder.exists()


def test_spreads_are_over_seeds_layer_by_layer() -> None:
    def network(seed: int, *ratios: float) -> NetworkTightness:
        layers = [
            LayerTightness(curvature, number, factor * ratio, 1, 1, 1, 1, 0, 1)
            for curvature, factor in (("factor", 1), ("scalar", 10))
            for number, ratio in enumerate(ratios, start=1)
        ]
        return NetworkTightness(2, seed, 0, 1.0, layers)

    spread = spread_by_layer([network(0, 1, 7), network(1, 2, 5), network(2, 9, 6)], "scalar", "random_ratio")
    np.testing.assert_array_equal([spread.low, spread.median, spread.high], [[10, 50], [20, 60], [90, 70]])


def test_losses_are_written_in_the_short_format() -> None:
    rounds = [TheoremRound(2.26, 0.5, 1.0, 0.0, 2.0), TheoremRound(2.0, 0.25, 1.0, 0.0, 1.5)]
    row = theorem_table([TheoremRun("factor", 1, 0, 2.0, 0, rounds)]).rows[0]
    assert [*row[2:5], row[-1]] == ["2", "0.25", "4.52", "2.26 to 1.5"]


def test_defaults_are_possible() -> None:
    TheoryConfig().check()
