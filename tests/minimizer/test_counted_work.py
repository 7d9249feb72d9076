"""Work is counted by keys that a pipeline keeps: other options and methods on it have keys of their own."""

import copy

import pytest
import torch
from torch import nn

from surmin import SquaredError, SurrogateMinimizer
from surmin.methods.registry import build_method
from surmin.options import OptionValues
from surmin.pipeline.in_process import InProcessPipeline

INPUTS, WIDTH, OUTPUTS = 6, 5, 3
DRAWN_TWICE: OptionValues = {"preset": "trips", "curvature_fraction": 0.33, "inner_fraction": 0.5}
"""Of 40 samples half of 13 where they are drawn from those of the wave, or else a sixth of all."""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"curvature_fraction": 0.25}, {"curvature_fraction": 1.0}),
        ({"rank": 1}, {}),
        ({"blocks": "stage"}, {}),
        ({"preset": "paper", "power_steps": 5}, {"preset": "paper", "power_steps": 20}),
        ({"preset": "paper", "curvature": "sample", "blocks": "stage"}, {"preset": "paper", "curvature": "sample"}),
        ({"preset": "paper", "hessian_products": "finite-difference"}, {"preset": "paper"}),
        ({"preset": "trips", "inner_fraction": 0.25}, {"preset": "trips", "inner_fraction": 1.0}),
        ({"preset": "trips", "rank": 1}, {"preset": "trips"}),
        ({"preset": "trips"}, {}),
        ({"blocks": "stage", "curvature_fraction": 1.0}, {"preset": "trips"}),
        ({**DRAWN_TWICE, "order": "parallel"}, DRAWN_TWICE),
        (None, {}),
    ],
    ids=str,
)  # fmt: skip
def test_the_work_of_a_method_is_its_own_whatever_went_before_on_its_pipeline(
    first: OptionValues | None, second: OptionValues
) -> None:
    """Without options the first one is kfac. Power iteration has to begin again where targets are far away."""
    torch.manual_seed(0)
    stages = [
        nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()),
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, OUTPUTS)),
    ]
    pipeline = InProcessPipeline(stages, SquaredError())
    batches = [(torch.randn(40, INPUTS), distance * torch.randn(40, OUTPUTS)) for distance in (5, 5, 1)]
    before = SurrogateMinimizer(pipeline, **first) if first is not None else build_method("kfac", pipeline)
    before.step(*batches[0])
    alone, done = InProcessPipeline(copy.deepcopy(stages), SquaredError()), pipeline.work.operations
    for method in (SurrogateMinimizer(pipeline, **second), SurrogateMinimizer(alone, **second)):
        for batch in batches[1:]:
            method.step(*batch)
    assert pipeline.work.operations - done == alone.work.operations > 0
