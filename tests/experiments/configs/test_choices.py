import pytest

from surmin.experiments.configs.choices import parse_methods, parse_rates
from surmin.methods.registry import METHODS


def test_all_methods() -> None:
    assert parse_methods("all") == list(METHODS)
    assert parse_methods(" sm, adam,sm ") == ["sm", "adam"]


def test_rates_named_for_a_method_replace_those_for_all() -> None:
    assert parse_rates(["adam=0.1", "1,2"], ["gd", "adam", "sm"]) == {"gd": [1.0, 2.0], "adam": [0.1], "sm": [None]}


def test_rates_apart_by_spaces_are_refused_and_equal_ones_tried_once() -> None:
    with pytest.raises(ValueError, match=r"--lr 0\.2: adam has other rates already: separate all of them by commas"):
        parse_rates(["0.1", "0.2"], ["adam"])
    assert parse_rates(["0.1,0.10", "adam=0.3"], ["gd", "adam"]) == {"gd": [0.1], "adam": [0.3]}
