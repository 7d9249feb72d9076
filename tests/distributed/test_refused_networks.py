"""A network that a method cannot train is refused on every worker, whoever holds the layer that does not fit."""

from typing import Any

import pytest
import torch
from torch import nn

from surmin import CrossEntropy
from surmin.methods.registry import build_method
from surmin.pipeline.distributed import Pipeline
from tests.distributed.settings import TIMEOUT
from tests.distributed.workers import Workers


def refused_here(method: str, options: dict[str, Any], misfit: nn.Module) -> str:
    """What this worker says of a network whose second half does not fit; another method can still train it."""
    torch.manual_seed(0)
    halves = [
        nn.Sequential(nn.Linear(5, 4), nn.Tanh()).double(),
        nn.Sequential(nn.Linear(4, 4), misfit, nn.Linear(4, 3)).double(),
    ]
    pipeline = Pipeline(halves[torch.distributed.get_rank()], CrossEntropy(), timeout=TIMEOUT)
    before = [parameter.detach().clone() for parameter in pipeline.parameters.values()]
    try:
        build_method(method, pipeline, **options)
    except ValueError as error:
        for parameter, value in zip(pipeline.parameters.values(), before, strict=True):
            assert torch.equal(parameter, value)
        batch = torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 3
        build_method("gd", pipeline).step(*batch)
        pipeline.flush()
        return str(error)
    return "nothing"


@pytest.mark.parametrize(
    ("method", "misfit", "words"),
    [
        ("locoprop", nn.GELU(), "locoprop's matching loss needs activations that never decrease: layer 3 (GELU)"),
        ("dladmm", nn.LayerNorm(4), "ReLU or a smooth one, in its stage: layer 3 (LayerNorm) is not one"),
    ],
)
def test_all_workers_refuse(workers: Workers, method: str, misfit: nn.Module, words: str) -> None:
    for told in workers.run(2, refused_here, method, {}, misfit):
        assert told.startswith("worker 1: ") and words in told
