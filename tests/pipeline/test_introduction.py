"""Which way workers send is decided from what all of them have told."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from surmin import CrossEntropy
from surmin.pipeline.comparison import complaints_of
from surmin.pipeline.introduction import GPU_WITHOUT_NCCL, Held, Setup, have_a_gpu_each

POSTED = Setup(CrossEntropy(), 1, "posted", [[0, 1]])
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("gpus", "each"),
    [([7, 8, 9], True), ([7], True), ([7, 8, 7], False), ([7, 0], False), ([0, 0], False), ([7, -1], False)],
    ids=str,
)
def test_a_gpu_each(gpus: list[int], each: bool) -> None:
    assert have_a_gpu_each([Held(1, 1, 1, 1, 0, 1, 0, 0, gpu) for gpu in gpus]) is each


def test_what_a_worker_on_a_processor_tells() -> None:
    modules = [nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), nn.Tanh()]
    own, again = (Held.of(modules, POSTED, CPU) for _ in range(2))
    assert (own.stages, own.layers, own.layer_blocks, own.stage_blocks, own.gpu) == (2, 4, 2, 1, 0)
    assert own == again
    for other in ({"microbatches": 2}, {"schedule": "gpipe"}, {"pipes": [[1, 0]]}):
        assert own != Held.of(modules, POSTED._replace(**other), CPU), other


def test_other_parameters_have_another_fingerprint() -> None:
    modules = [nn.Linear(2, 3)]
    before = Held.of(modules, POSTED, CPU)
    with torch.no_grad():
        modules[0].weight[0, 0] += 1
    assert Held.of(modules, POSTED, CPU).fingerprint != before.fingerprint


def test_a_gpu_without_nccl_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    assert Held.of([nn.Linear(2, 2)], POSTED, torch.device("cuda")).gpu == GPU_WITHOUT_NCCL


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({0: "", 1: ""}, None),
        ({1: "no data", 0: "no data"}, "no data"),
        ({1: "no data", 0: ""}, "worker 1: no data"),
        ({1: "no data", 0: "no loss"}, "worker 0: no loss; worker 1: no data"),
    ],
)
def test_complaints_name_their_workers_unless_all_say_the_same(told: dict[int, str], said: str | None) -> None:
    assert complaints_of(told) == said
