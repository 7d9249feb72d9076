from dataclasses import replace
from typing import Any

import pytest

from surmin.experiments.configs.simulate import SimulateConfig
from surmin.experiments.simulated import runs as runs_module
from surmin.experiments.simulated.runs import Measuring
from surmin.simulation.measuring import Trained

CONFIG = SimulateConfig(
    methods="adam,sgd", train_samples=60, layers=3, width=6, stages="2,3", batch_sizes="4", lr=("adam=0.1,0.2",),
)  # fmt: skip
TRAINED_WITH: dict[str, dict[str, Any]] = {}
"""The options that every method was trained with last."""


@pytest.fixture(autouse=True)
def _known_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0.2 fewer rounds are needed than at 0.1; one of two stages with two micro-batches never gets there."""

    def train(stages: list[object], *rest: object, microbatches: int, **options: object) -> Trained | None:
        if (len(stages), microbatches) == (2, 2):
            return None
        *_, method, method_options = rest
        assert isinstance(method, str) and isinstance(method_options, dict)
        TRAINED_WITH[method] = method_options
        return Trained([], 5 if method_options.get("lr") == 0.2 else 9, 1, 1, 1)

    TRAINED_WITH.clear()
    monkeypatch.setattr(runs_module, "train", train)


@pytest.mark.parametrize("microbatches", ["8,1", "1,8"])
def test_the_order_of_micro_batches_does_not_leave_a_batch_size_out(microbatches: str) -> None:
    warnings: list[str] = []
    measuring = Measuring(replace(CONFIG, microbatches=microbatches), lambda *told: None, warnings.append)
    found = [(run.workers, run.microbatches, run.lr) for run in measuring.runs() if run.method == "adam"]
    assert found == [(2, 1, 0.2), (3, 1, 0.2)]
    assert warnings[0] == "batch size 4: cannot be cut into 8 micro-batches; left out"
    assert len(warnings) == 2  # one a method


def test_the_rate_is_chosen_where_the_loss_is_reached_first() -> None:
    measuring = Measuring(replace(CONFIG, microbatches="2,1"), lambda *told: None, lambda warning: None)
    found = [(run.workers, run.microbatches, run.lr) for run in measuring.runs() if run.method == "adam"]
    assert found == [(2, 1, 0.2), (3, 2, 0.2), (3, 1, 0.2)]


def measuring(**options: Any) -> Measuring:
    return Measuring(replace(CONFIG, lr=(), **options), lambda *told: None, lambda warning: None)


def test_damping_is_not_for_a_safeguard_without_it() -> None:
    """And sm is not given what does nothing with its curvature, where it is another method's."""
    list(measuring(methods="sm,cgblock,adam", damping=0.5).runs())
    assert [TRAINED_WITH[method] for method in ("sm", "cgblock")] == [{"damping": 0.5}, {}]
    list(measuring(methods="sm,sm-paper", delta=2.0).runs())
    assert [TRAINED_WITH[method] for method in ("sm", "sm-paper")] == [{}, {"delta": 2.0}]


def test_every_method_is_built_before_any_is_trained() -> None:
    with pytest.raises(ValueError, match="rank must be at least 1"):
        measuring(methods="adam,sm", rank=0)
