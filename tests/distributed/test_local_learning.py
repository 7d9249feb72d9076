"""What the methods with networks beside the stages wait for, and what they refuse, on workers."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from surmin import SquaredError
from surmin.methods.registry import build_method
from surmin.pipeline.distributed import Pipeline
from tests.distributed.settings import SAMPLES, TIMEOUT, Setting, make_method, running, values
from tests.distributed.workers import Workers
from tests.methods.test_auxiliary import Transposed


def run_ahead(setting: Setting, lead: int) -> list[float]:
    """The first worker does so many rounds more than the last before that one goes on; the last one's losses."""
    batch, losses = setting.case.batch(SAMPLES), []
    with running(setting) as pipeline:
        method = make_method(pipeline, setting)
        losses.append(method.step(*batch).loss)
        if pipeline.is_last:
            dist.barrier()
        losses += [method.step(*batch).loss for _ in range(lead)]
        if pipeline.is_first:
            dist.barrier()
        return losses


@pytest.mark.parametrize(("name", "lead"), [("dgl", 5), ("dni", 1)])
def test_a_stage_does_not_wait_for_the_one_above(workers: Workers, name: str, lead: int) -> None:
    _, losses = workers.run(2, run_ahead, Setting(2, 2, 3, method=name), lead)
    assert losses[0] != losses[-1]


def refused(name: str) -> tuple[str, bool]:
    """What a network is refused with, with a middle that puts out other positions; whether it stayed as it was."""
    torch.manual_seed(0)
    modules = [nn.Linear(3, 4), nn.Linear(4, 4), nn.Sequential(Transposed(), nn.Linear(5, 2))]
    own = modules[:2] if dist.get_rank() == 0 else modules[2:]
    pipeline = Pipeline(own, SquaredError(), timeout=TIMEOUT)
    before: dict[str, Any] = values(pipeline)
    with pytest.raises(ValueError, match="auxiliary network needs") as caught:
        build_method(name, pipeline).step(torch.randn(6, 5, 3), torch.randn(6, 4, 2))
    pipeline.flush()
    return str(caught.value), all((before[key] == value).all() for key, value in values(pipeline).items())


@pytest.mark.parametrize("name", ["dgl", "interlocking", "dni"])
def test_a_network_without_room_for_one_is_refused_on_all_workers(workers: Workers, name: str) -> None:
    (first, first_stayed), (second, second_stayed) = workers.run(2, refused, name)
    assert first_stayed and second_stayed
    assert first == second and first.startswith("worker 0: an auxiliary network needs")
