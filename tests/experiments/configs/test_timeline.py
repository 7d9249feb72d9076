from dataclasses import asdict
from typing import Any

import pytest

from surmin.experiments.configs.saved import parse_options
from surmin.experiments.configs.timeline import TimelineConfig


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"gradient_steps": 0}, "gradient_steps must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"schedule": "zero-bubble"}, "schedule must be one of posted, gpipe, 1f1b, got 'zero-bubble'"),
        ({"microbatches": 0}, "microbatches must be at least 1, got 0"),
        ({"workers": 2, "replicas": 2}, "surmin timeline shows one pipe: leave replicas at 1"),
        ({"target_loss": 0.1}, "target_loss has no meaning for a timeline"),
        ({"penalty": 0.1}, "method sm does not take --penalty; it takes --preset.*"),
        ({"optimizer": "adam"}, "method sm does not take --optimizer; it takes --preset.*"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^{complaint}$"):
        TimelineConfig(**{"workers": 1, **options}).check()


def test_json() -> None:
    config = TimelineConfig(workers=1, schedule="1f1b", gradient_steps=3)
    assert parse_options(asdict(config), TimelineConfig) == config
