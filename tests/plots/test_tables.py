import math

import pytest

from surmin.plots.tables import counted, megabytes, percent, short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (14, "14"), (0.0123, "0.0123"), (1.0, "1"), (49.394, "49.4"), (1.15e-5, "1.15e-05"), (407.3, "407"),
        (8157.0, "8,157"), (1.23e9, "1.23e+09"), (None, "–"), (math.inf, "–"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert short(value) == text


def test_one_of_a_thing_is_no_plural() -> None:
    assert [counted(number, "round") for number in (0, 1, 4096)] == ["0 rounds", "1 round", "4,096 rounds"]
    assert [counted(number, "micro-batch", "es") for number in (1, 2)] == ["1 micro-batch", "2 micro-batches"]


def test_units() -> None:
    assert percent(0.9777) == "97.8 %" and percent(None) == "–" and percent(math.inf) == "–"
    assert megabytes(71_283_120) == "71.3" and megabytes(None) == "–"
