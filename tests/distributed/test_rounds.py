"""Rounds that follow each other: other batches between, evaluations, resuming; and unusual ways to place a network."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.worker_pipeline import WorkerPipeline
from tests.device import is_shared
from tests.distributed.settings import SAMPLES, Setting, make_method, running, values
from tests.distributed.workers import Workers

SETTING = Setting(workers=2, stages=4, microbatches=3)


def alternate(pipeline: WorkerPipeline, setting: Setting) -> tuple[list[float], list[int], list[Any]]:
    """A batch twice, a smaller one, the first again, each with an evaluation: losses, forward waves, predictions."""
    case, sm = setting.case, make_method(pipeline, setting)
    large, small = case.batch(SAMPLES), case.batch(SAMPLES // 2, seed=2)
    losses, waves, predictions = [], [], []
    for number, batch in enumerate([large, large, small, small, large]):
        report = sm.step(*batch)
        losses += [report.loss, report.new_loss]
        waves.append(report.forward_waves)
        predicted = pipeline.predict(case.batch(5 + number % 2, seed=3)[0])
        predictions.append(None if predicted is None else predicted.cpu().numpy())
    return losses, waves, predictions


def alternate_here(setting: Setting) -> tuple[list[float], list[int], list[Any]]:
    with running(setting) as pipeline:
        return alternate(pipeline, setting)


@pytest.mark.parametrize("schedule", ["posted", "gpipe", "1f1b"])
def test_other_batches_and_evaluations_between_rounds_leave_no_stale_rows(workers: Workers, schedule: Any) -> None:
    setting = replace(SETTING, schedule=schedule)
    pipeline = InProcessPipeline(setting.modules(), setting.case.loss, microbatches=setting.microbatches)
    losses, waves, predictions = alternate(pipeline, setting)
    first, last = workers.run(setting.workers, alternate_here, setting)
    assert first[2] == [None] * len(predictions)
    for own in (first, last):
        assert own[:2] == (pytest.approx(losses, rel=1e-9), waves)
    for found, expected in zip(last[2], predictions, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)


def resume_here(setting: Setting) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters after four rounds, and after two, a new start from the state, and two more."""
    batch = setting.case.batch(SAMPLES)
    with running(setting) as whole, running(setting) as resumed:
        method = make_method(whole, setting)
        for _ in range(2):
            method.step(*batch)
        other = make_method(resumed, setting)
        with torch.no_grad():
            for name, parameter in resumed.parameters.items():
                parameter.copy_(whole.parameters[name])
        other.load_state_dict(method.state_dict())
        for _ in range(2):
            method.step(*batch)
            other.step(*batch)
        return values(whole), values(resumed)


RESUMED = [
    SETTING,
    replace(SETTING, options=(("preset", "trips"), ("inner_steps", 1), ("damping", 1.0))),
    replace(SETTING, method="adam", schedule="gpipe"),
    replace(SETTING, method="gd-armijo"),
    replace(SETTING, method="lbfgs", options=(("inner_steps", 3),)),
    replace(SETTING, method="locoprop"),
    replace(SETTING, method="dladmm"),
    replace(SETTING, method="dgl"),
    replace(SETTING, method="interlocking"),
    replace(SETTING, method="dni"),
]


@pytest.mark.parametrize("setting", RESUMED, ids=str)
def test_training_resumes_from_every_worker_s_state(workers: Workers, setting: Setting) -> None:
    for whole, resumed in workers.run(setting.workers, resume_here, setting):
        assert whole.keys() == resumed.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(resumed[name], value, atol=1e-9, err_msg=name)


def linear(inputs: int, outputs: int, *, frozen: bool = False) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh()).requires_grad_(not frozen)


class Mixed(nn.Module):
    """A fixed sparse matrix between features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(features).roll(1, 0).to_sparse())

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sparse.mm(self.matrix, inputs.t()).t()


PLACEMENTS: dict[str, Callable[[], list[nn.Module]]] = {
    "no parameters on the first worker": lambda: [nn.Flatten(), linear(5, 4), linear(4, 3)],
    "no parameters in the middle": lambda: [linear(5, 4), nn.Tanh(), linear(4, 3)],
    "no parameters on the last worker": lambda: [linear(5, 4), linear(4, 3), nn.Softplus()],
    "nothing on the last worker": lambda: [linear(5, 4), linear(4, 3), nn.Identity()],
    "frozen at the bottom": lambda: [linear(5, 4, frozen=True), linear(4, 4), linear(4, 3)],
    "frozen in the middle": lambda: [linear(5, 4), linear(4, 4, frozen=True), linear(4, 3)],
    "all but one frozen": lambda: [linear(5, 4, frozen=True), linear(4, 4, frozen=True), linear(4, 3)],
    "a sparse buffer on the last worker": lambda: [linear(5, 4), linear(4, 3), nn.Sequential(linear(3, 3), Mixed(3))],
    "two stages on the first worker": lambda: [linear(5, 4), linear(4, 4), linear(4, 4), linear(4, 3)],
    "two layers on the first worker": lambda: [
        nn.Sequential(linear(5, 4), linear(4, 4)),
        linear(4, 4),
        linear(4, 3),
    ],
}
WAYS: dict[str, dict[str, Any]] = {
    "factor": {},
    "sample": {"options": (("curvature", "sample"), ("power_steps", 2))},
    "scheduled": {"schedule": "gpipe", "options": (("curvature", "scalar"), ("power_steps", 2))},
    "sequential": {"options": (("preset", "trips"), ("inner_steps", 1))},
    "nonlinear": {"options": (("preset", "trips"), ("order", "parallel"), ("inner_steps", 1))},
    "gd": {"method": "gd"},
    "adam": {"method": "adam", "schedule": "1f1b"},
    "gd-armijo": {"method": "gd-armijo"},
    "lbfgs": {"method": "lbfgs", "options": (("inner_steps", 2),)},
    "sso": {"method": "sso", "options": (("inner_steps", 2),)},
    "locoprop": {"method": "locoprop", "options": (("inner_steps", 2), ("local_loss", "squared"))},
    "dgl": {"method": "dgl"},
    "interlocking": {"method": "interlocking"},
    "ddg": {"method": "ddg"},
    "features-replay": {"method": "features-replay"},
    "fdg": {"method": "fdg"},
    "dni": {"method": "dni", "options": (("inner_steps", 2),)},
    "cgblock": {"method": "cgblock", "options": (("inner_steps", 2),)},
    "cgblock-ggn": {"method": "cgblock-ggn", "schedule": "gpipe", "options": (("inner_steps", 2),)},
    "kfac": {"method": "kfac"},
    "newton": {"method": "newton"},
}


def make_modules(placement: str) -> list[nn.Module]:
    torch.manual_seed(0)
    return [module.double() for module in PLACEMENTS[placement]()]


Make = Callable[[Setting, list[nn.Module]], AbstractContextManager[WorkerPipeline]]


def ways(placement: str) -> list[str]:
    """All of `sm`, and every fifth of the others, which ones by turns."""
    others = [name for name, way in WAYS.items() if "method" in way]
    return [*(name for name in WAYS if name not in others), *others[list(PLACEMENTS).index(placement) % 5 :: 5]]


def step_in_several_ways(make: Make, placement: str) -> list[Any]:
    """For each of them the parameters after two rounds, the messages and the bytes."""
    found = []
    for way in map(WAYS.__getitem__, ways(placement)):
        setting = replace(Setting(workers=3, stages=3, microbatches=3), **way)
        setting = replace(setting, schedule="posted") if is_shared(3) else setting
        with make(setting, make_modules(placement)) as pipeline:
            method = make_method(pipeline, setting)
            for _ in range(2):
                method.step(*setting.case.batch(SAMPLES))
            found.append((values(pipeline), pipeline.traffic.messages, pipeline.traffic.bytes))
    return found


@contextmanager
def together(setting: Setting, modules: list[nn.Module]) -> Iterator[WorkerPipeline]:
    counts = {"microbatches": setting.microbatches, "workers": setting.workers}
    yield InProcessPipeline(modules, setting.case.loss, **counts)


def step_here(placement: str) -> list[Any]:
    return step_in_several_ways(running, placement)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_wherever_the_parameters_are(workers: Workers, placement: str) -> None:
    workers.begin(3, step_here, placement)
    expected = step_in_several_ways(together, placement)
    for way, one, *found in zip(ways(placement), expected, *workers.results(), strict=True):
        check_parts(way, one, found)


def check_parts(way: str, expected: Any, found: Sequence[Any]) -> None:
    parameters, messages, size = expected
    together = {name: value for own, _, _ in found for name, value in own.items()}
    assert together.keys() == parameters.keys()
    for name, value in parameters.items():
        np.testing.assert_allclose(together[name], value, atol=1e-9, err_msg=f"{way}: {name}")
    sent = (sum(own[1] for own in found), sum(own[2] for own in found))
    if "schedule" in WAYS[way]:  # torch's sends gradients on to where nothing trains
        assert sent >= (messages, size)
    else:
        assert (way, *sent) == (way, messages, size)


def step_through_batches(make: Make, schedule: Any) -> dict[str, Any]:
    """Parameters after rounds on batches of one shape, where the first layer that trains is on the second worker."""
    setting = Setting(workers=3, stages=3, microbatches=3, schedule=schedule)
    with make(setting, make_modules("frozen at the bottom")) as pipeline:
        method = make_method(pipeline, setting)
        for seed in range(3):
            method.step(*setting.case.batch(SAMPLES, seed=seed))
        return values(pipeline)


def step_through_batches_here(schedule: Any) -> dict[str, Any]:
    return step_through_batches(running, schedule)


@pytest.mark.parametrize("schedule", ["posted", "gpipe", "1f1b"])
def test_what_is_kept_of_an_input_is_not_taken_for_that_of_the_next_batch(workers: Workers, schedule: Any) -> None:
    """torch receives every batch into the same memory, where a cache of the input's moment sees no change."""
    expected = step_through_batches(together, schedule)
    found = {name: value for own in workers.run(3, step_through_batches_here, schedule) for name, value in own.items()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-9, err_msg=name)


def count_ranks() -> int:
    return dist.get_world_size()


def test_a_task_has_the_workers_it_asks_for(workers: Workers) -> None:
    assert [workers.run(count, count_ranks) for count in (2, 3, 1)] == [[2, 2], [3, 3, 3], [1]]
