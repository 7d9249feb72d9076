"""What 1F1B is for: a worker holds the activations of few micro-batches, if only the gradient is wanted."""

import weakref
from typing import Any
from unittest.mock import patch

import pytest
from torch import Tensor

from surmin.pipeline.held_stages import HeldStages
from surmin.pipeline.schedule_names import ScheduleName
from tests.distributed.settings import SAMPLES, Setting, make_method, running
from tests.distributed.workers import Workers

MICROBATCHES = 6
FORWARD = HeldStages.forward_part


def most_held(setting: Setting) -> int:
    """The most micro-batches of which inner activations are alive in the second step, on a batch of a known shape."""
    seen: list[list[weakref.ref[Tensor]]] = []
    held = [0]

    def watched(pipeline: HeldStages, *given: Any) -> Any:
        tapes = FORWARD(pipeline, *given)
        seen.append([weakref.ref(state) for state in tapes[0][0].inputs[1:-1]])
        held[0] = max(held[0], sum(any(state() is not None for state in own) for own in seen))
        return tapes

    with running(setting) as pipeline:
        method = make_method(pipeline, setting)
        method.step(*setting.case.batch(SAMPLES))
        with patch.object(HeldStages, "forward_part", watched):
            method.step(*setting.case.batch(SAMPLES, seed=5))
    return held[0]


@pytest.mark.parametrize(
    ("method", "schedule", "expected"),
    [
        ("adam", "1f1b", [2, 1]),
        ("adam", "gpipe", [MICROBATCHES, MICROBATCHES]),
        ("adam", "posted", [MICROBATCHES, MICROBATCHES]),
        ("sm", "1f1b", [MICROBATCHES, MICROBATCHES]),
    ],
)
def test_activations_are_held_until_their_gradient(
    workers: Workers, method: str, schedule: ScheduleName, expected: list[int]
) -> None:
    setting = Setting(2, 2, MICROBATCHES, "mlp", schedule, method)
    assert workers.run(2, most_held, setting) == expected
