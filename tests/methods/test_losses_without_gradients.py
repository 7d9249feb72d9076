"""What `ConvexLoss` promises to whoever writes a loss: every method calls it with gradients switched off."""

from typing import Any

import pytest
import torch

from surmin.losses import CrossEntropy
from surmin.methods.registry import METHODS, build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.methods.cases import make_batch, make_model

ASKED = ("check", "sample_losses", "gradient", "trace", "factor", "sampled_factor", "smoothness")


class Watched(CrossEntropy):
    """Fails where gradients are on."""

    def __getattribute__(self, name: str) -> Any:
        assert name not in ASKED or not torch.is_grad_enabled(), f"{name} is called with gradients on"
        return super().__getattribute__(name)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("microbatches", [1, 2])
def test_losses_are_called_with_gradients_off(name: str, microbatches: int) -> None:
    pipeline = InProcessPipeline(partition(make_model(), 2), Watched(), microbatches=microbatches)
    method = build_method(name, pipeline, seed=3)
    for _ in range(2):
        method.step(*make_batch())
