"""After a step that failed workers go on where they can; where they cannot, each says why."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from surmin.losses import SquaredError
from surmin.methods.registry import build_method
from surmin.pipeline.distributed import Pipeline
from tests.device import here
from tests.distributed.settings import SAMPLES, TIMEOUT, Setting, make_method, running, values
from tests.distributed.test_bad_input import SETTING, error_of, same
from tests.distributed.workers import Workers


def without_gradients(setting: Setting) -> tuple[str, bool]:
    """All workers make the same mistake on a batch that they know."""
    with running(setting) as pipeline:
        method, batch = make_method(pipeline, setting), setting.case.batch(SAMPLES)
        method.step(*batch)
        with torch.no_grad():
            message = error_of(lambda: method.step(*batch))
        before = values(pipeline)
        method.step(*batch)
        return message, not same(before, values(pipeline))


@pytest.mark.parametrize("schedule", ["posted", "1f1b"])
def test_a_mistake_of_all_workers_spoils_nothing(workers: Workers, schedule: Any) -> None:
    for message, goes_on in workers.run(2, without_gradients, replace(SETTING, method="adam", schedule=schedule)):
        assert message.startswith("gradients are switched off") and goes_on


def freeze_and_thaw(setting: Setting) -> tuple[str, bool]:
    """Worker 1 freezes a stage before a batch that all know, and then thinks better of it."""
    with running(setting) as pipeline:
        method, batch = make_method(pipeline, setting), setting.case.batch(SAMPLES)
        method.step(*batch)
        module, before = pipeline.stages[0].layers[0].module, values(pipeline)
        module.requires_grad_(dist.get_rank() == 0)
        message = error_of(lambda: method.step(*batch))
        module.requires_grad_(True)
        untouched = same(before, values(pipeline))
        method.step(*batch)
        return message, untouched and not same(before, values(pipeline))


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_what_is_wrong_before_a_schedule_of_torch_s_runs_can_be_mended(workers: Workers, schedule: Any) -> None:
    for message, goes_on in workers.run(2, freeze_and_thaw, replace(SETTING, method="adam", schedule=schedule)):
        assert message.startswith("worker 1: ") and "was frozen since" in message and goes_on


def too_narrow(setting: Setting) -> tuple[str, bool]:
    """The first batch has a feature too few, which only the first stage notices."""
    with running(setting) as pipeline:
        method, (inputs, targets) = make_method(pipeline, setting), setting.case.batch(SAMPLES)
        before = values(pipeline)
        message = error_of(lambda: method.step(inputs[:, 1:], targets))
        untouched = same(before, values(pipeline))
        method.step(inputs, targets)
        return message, untouched and not same(before, values(pipeline))


@pytest.mark.parametrize(("method", "schedule"), [("adam", "posted"), ("adam", "gpipe"), ("dgl", "posted")])
def test_all_workers_hear_that_a_batch_does_not_fit_the_first_stage(
    workers: Workers, method: str, schedule: Any
) -> None:
    for message, goes_on in workers.run(2, too_narrow, replace(SETTING, method=method, schedule=schedule)):
        assert message.startswith("worker 0: the batch does not fit the network: in layer 1 (Linear)") and goes_on


@pytest.mark.parametrize("processes", [1, 2])
def test_so_do_replicas_of_one_worker_each(workers: Workers, processes: int) -> None:
    for message, goes_on in workers.run(processes, too_narrow, replace(SETTING, workers=1, method="adam")):
        assert message.startswith("the batch does not fit the network: in layer 1 (Linear)") and goes_on


def too_narrow_for_one(setting: Setting) -> tuple[str, bool]:
    """Of two replicas the first has a feature too few."""
    with running(setting) as pipeline:
        method, (inputs, targets) = make_method(pipeline, setting), setting.case.batch(SAMPLES)
        message = error_of(lambda: method.step(inputs[:, 1 - dist.get_rank() :], targets))
        return message, bool(method.step(inputs, targets).accepted)


def test_replicas_hear_what_does_not_fit_one_of_them(workers: Workers) -> None:
    for message, goes_on in workers.run(2, too_narrow_for_one, replace(SETTING, workers=1, method="adam")):
        assert message.startswith("worker 0: the batch does not fit the network: in layer 1 (Linear)") and goes_on


def fail_everywhere(setting: Setting) -> list[str]:
    """Every worker fails in the same step, each at a micro-batch of its own, and goes on."""
    modules, calls = setting.modules(), [0]

    def fail(_module: nn.Module, _inputs: Any) -> None:
        calls[0] += 1
        if calls[0] == fails_at:
            raise RuntimeError("out of memory")

    fails_at = -1
    with running(setting, modules) as pipeline:
        method, batch = make_method(pipeline, setting), setting.case.batch(SAMPLES)
        method.step(*batch)
        layer = next(layer for layer in pipeline.stages[0].layers if layer.size)
        layer.module.register_forward_pre_hook(fail)
        fails_at = calls[0] + (3 if pipeline.is_first else 1)
        method.pipeline.forget()
        said = [error_of(lambda: method.step(*batch), RuntimeError)]
        for _ in range(2):
            try:
                method.step(*batch)
                said.append("went on")
            except (RuntimeError, ValueError) as error:
                said.append(str(error))
        return said


@pytest.mark.parametrize("method", ["gd", "sm"])
def test_what_is_left_of_a_wave_that_failed_is_not_taken_for_the_next(workers: Workers, method: str) -> None:
    for first, *later in workers.run(2, fail_everywhere, replace(SETTING, method=method)):
        assert first == "out of memory"
        assert all("cannot go on after an error in the middle of a wave" in said for said in later), later


def alternate(setting: Setting) -> list[float]:
    """A method of waves, one whose stages begin to move at different rounds, and the first again, on one batch."""
    with running(setting) as pipeline:
        batch = setting.case.batch(SAMPLES)
        sm, ddg = make_method(pipeline, setting), build_method("ddg", pipeline)
        return [own.step(*batch).loss for own in (sm, ddg, sm)]


def test_methods_take_turns_on_one_pipeline(workers: Workers) -> None:
    first, second = workers.run(2, alternate, SETTING)
    assert first[0] == second[0] and first[2] == second[2] < first[0]


def empty_stage(setting: Setting) -> str:
    modules = setting.modules()
    modules[3] = nn.Sequential()
    modules[2] = nn.Sequential(modules[2], setting.modules()[3])
    with running(setting, modules) as pipeline:
        return error_of(lambda: build_method("ddg", pipeline))


def test_all_workers_hear_of_a_stage_that_will_not_do(workers: Workers) -> None:
    for said in workers.run(2, empty_stage, SETTING):
        assert said == "worker 1: delayed gradients need a layer in every stage: leave out the empty nn.Sequential"


def close_twice(setting: Setting) -> list[str]:
    with running(setting):
        own = setting.modules()
        extra = Pipeline(
            [own[2 * dist.get_rank()], own[2 * dist.get_rank() + 1]], setting.case.loss, device=here().type
        )
        methods = [build_method(name, extra) for name in ("sm", "dgl")]
        for method in methods:
            method.step(*setting.case.batch(SAMPLES))
        extra.close()
        extra.close()
        said = [error_of(partial(own.step, *setting.case.batch(SAMPLES)), RuntimeError) for own in methods]
        return [error_of(lambda: extra.group, RuntimeError), *said]


def test_a_pipeline_is_closed_once(workers: Workers) -> None:
    for said in workers.run(2, close_twice, SETTING):
        assert said == ["this pipeline was closed: make another one, on all workers"] * 3


class Failing(nn.Module):
    """Fails when it is told to."""

    fails = False

    def forward(self, inputs: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("out of memory")
        return inputs * 1.0


def fail_in_the_middle(setting: Setting) -> list[str]:
    """Of the last worker's program, which goes on after an error; the first has sent its messages by then."""
    modules = setting.modules()
    failing = Failing()
    modules[3] = nn.Sequential(failing, modules[3])
    said = []
    with running(setting, modules) as pipeline:
        method, batch = make_method(pipeline, setting), setting.case.batch(SAMPLES)
        method.step(*batch)
        failing.fails = pipeline.is_last
        if not pipeline.is_last:
            method.step(*batch)
        for _ in range(2 if pipeline.is_last else 0):
            said.append(error_of(lambda: method.step(*batch), RuntimeError))
            failing.fails = False
        pipeline.flush()  # what is under way has come then, and is still of the step that failed
        if pipeline.is_last:
            said.append(error_of(lambda: method.step(*batch), RuntimeError))
    return said


@pytest.mark.parametrize("method", ["dgl", "ddg"])
def test_messages_of_a_step_that_failed_are_not_taken_for_the_next_one_s(workers: Workers, method: str) -> None:
    first, last = workers.run(2, fail_in_the_middle, replace(SETTING, method=method))
    assert first == []
    assert last[0] == "out of memory"
    assert all(said.startswith("a step failed in the middle on this worker") for said in last[1:])


class Cut(torch.autograd.Function):
    """Cannot be gone back through."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs * 2

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        raise RuntimeError("no way back")


class OneWay(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        doubled: Tensor = Cut.apply(inputs)  # type: ignore[no-untyped-call]
        return doubled


class Whole(nn.Module):
    """Whole numbers of a kind that is not sent between workers."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.to(torch.uint16)


def error_with(setting: Setting, last: Callable[[], nn.Module]) -> str:
    modules = setting.modules()
    modules[3] = nn.Sequential(modules[3], last())
    with running(setting, modules) as pipeline:
        return error_of(lambda: make_method(pipeline, setting).step(*setting.case.batch(SAMPLES)), Exception)


@pytest.mark.parametrize("method", ["dgl", "ddg"])
def test_what_fails_when_a_batch_is_tried_out_all_workers_hear_of(workers: Workers, method: str) -> None:
    first, last = workers.run(2, error_with, replace(SETTING, method=method), OneWay)
    assert (first, last) == ("worker 1: RuntimeError: no way back", "no way back")
    for found in workers.run(2, error_with, replace(SETTING, method=method), Whole):
        assert found.startswith("worker 1: CrossEntropy cannot be computed for these outputs")


def train_backwards(schedule: Any) -> float:
    """The last process holds the network's first stage."""
    torch.manual_seed(0)
    stages = [nn.Linear(3, 4).double(), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)).double()]
    inputs, targets = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    place = 1 - dist.get_rank()
    pipeline = Pipeline(
        stages[place], SquaredError(), microbatches=2, schedule=schedule, mesh=[[1, 0]], timeout=TIMEOUT
    )
    method = build_method("gd", pipeline)
    for _ in range(2):
        method.step(inputs, targets)
    predicted = pipeline.predict(inputs)
    pipeline.close()
    return 0.0 if predicted is None else float((predicted - targets).square().sum())


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_a_pipe_may_go_through_the_processes_in_any_order(workers: Workers, schedule: Any) -> None:
    posted, found = (workers.run(2, train_backwards, name) for name in ("posted", schedule))
    assert posted[0] > 0 == posted[1]
    assert found == pytest.approx(posted, rel=1e-12)
