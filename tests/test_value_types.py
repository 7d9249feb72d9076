from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pytest

from surmin.value_types import check_types, is_whole

NAMES = Literal["one", "two"]


@runtime_checkable
class Closing(Protocol):
    def close(self) -> None: ...


class Door:
    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("kind", "fitting", "others", "words"),
    [
        (bool, [True, False], [0, 1.0, None, "yes"], "True or False"),
        (int, [0, -3], [1.0, True, "1", None], "a whole number"),
        (float, [0.5, 2], [True, "0.5", None, (0.5,)], "a number"),
        (str, ["", "x"], [1, None, ("x",)], "text"),
        (NAMES, ["one"], ["three", 1, np.array(["one", "two"])], "one of one, two"),
        (Literal["one"], ["one"], ["two"], "'one'"),
        (NAMES | None, ["two", None], ["", 0], "one of one, two or None"),
        (int | None, [3, None], [3.0, False], "a whole number or None"),
        (tuple[int, ...], [(), (1, 2)], [[1], (1.0,), (True,), 1], "a sequence of whole numbers"),
        (Sequence[float], [(1, 0.5), [2.0]], ["12", (True,), ("a",), 2.0, None], "a sequence of numbers"),
        (Sequence[float] | None, [(), None], [0.5], "a sequence of numbers or None"),
        (tuple[str, ...], [("a",)], ["a", (1,)], "a sequence of texts"),
        (Closing, [Door()], [Door, "a"], "a Closing"),
    ],
)
def test_values_of_a_type_and_others(kind: Any, fitting: list[Any], others: list[Any], words: str) -> None:
    for value in fitting:
        check_types({"name": value}, {"name": kind})
    for value in others:
        with pytest.raises(ValueError) as raised:
            check_types({"first": 1, "name": value}, {"first": int, "name": kind})
        assert str(raised.value) == f"name must be {words}, got {value!r}"


def test_whole_numbers_from_the_least_up() -> None:
    assert is_whole(0) and is_whole(3) and is_whole(1, least=1)
    assert not any(is_whole(value) for value in (-1, 1.0, True, "1", None))
    assert not is_whole(0, least=1)
