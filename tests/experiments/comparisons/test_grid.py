from typing import Any

import pytest

from surmin.experiments.comparisons.grid import plan_runs
from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.configs.ranges import MOST
from tests.experiments.runs.cases import tiny_comparison


def test_methods_rates_and_seeds() -> None:
    config = tiny_comparison(methods="sm,adam,gd", lr=("adam=0.1,0.2",), seeds=2, seed=5, damping=0.5)
    planned = plan_runs(config)
    assert [run.name for run in planned] == [
        "sm-seed5", "sm-seed6", "adam-lr0.1-seed5", "adam-lr0.1-seed6", "adam-lr0.2-seed5", "adam-lr0.2-seed6",
        "gd-lr0.1-seed5", "gd-lr0.1-seed6",
    ]  # fmt: skip
    assert [run.config.damping for run in planned] == [0.5, 0.5, *[None] * 6]
    assert [run.config.lr for run in planned] == [run.lr for run in planned]
    assert all(run.config.layers == config.layers and run.config.seed == run.seed for run in planned)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "sm,foo"}, "unknown method 'foo'"),
        ({"methods": ","}, "name at least one method"),
        ({"methods": "sm", "lr": ("0.1",)}, "none of the methods sm takes --lr"),
        ({"methods": "sm,gd", "lr": ("sm=0.1",)}, "'sm' is not one of the methods here that take a learning rate"),
        ({"methods": "gd", "lr": ("0.1,x",)}, "--lr 0.1,x: 'x' is not a positive number"),
        ({"methods": "gd", "lr": ("-1",)}, "'-1' is not a positive number"),
        ({"methods": "gd", "lr": ("nan",)}, "'nan' is not a positive number"),
        ({"methods": "gd,adam", "damping": 0.1}, "none of the methods gd, adam takes --damping"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"seed": MOST["seed"], "seeds": 2}, "seed must be at most"),
    ],
)
def test_impossible_comparisons(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_runs(tiny_comparison(**options))


def test_rates_that_look_alike_have_folders_of_their_own() -> None:
    config = CompareConfig(methods="adam", lr=("0.1234567,0.1234568",))
    assert len({planned.name for planned in plan_runs(config)}) == 2
