"""What is wrong on one worker, all refuse with the same words; nothing has changed then, and training goes on."""

import gc
import math
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from surmin import CrossEntropy, SurrogateMinimizer
from surmin.methods.registry import build_method
from surmin.pipeline.distributed import Pipeline
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.schedule_names import SCHEDULES
from tests.distributed.settings import SAMPLES, TIMEOUT, Setting, make_method, make_pipeline, running, values
from tests.distributed.workers import Workers

SETTING = Setting(workers=2, stages=4, microbatches=3)
Batch = tuple[Tensor, Tensor]


def with_nan(inputs: Tensor, targets: Tensor) -> Batch:
    return inputs.index_fill(0, torch.tensor([5]), math.nan), targets


def with_a_large_label(inputs: Tensor, targets: Tensor) -> Batch:
    return inputs, targets.index_fill(0, torch.tensor([20]), 3)


def with_a_sample_less(inputs: Tensor, targets: Tensor) -> Batch:
    return inputs[:-1], targets[:-1]


def with_half_the_samples(inputs: Tensor, targets: Tensor) -> Batch:
    return inputs[::2], targets[::2]


def in_single_precision(inputs: Tensor, targets: Tensor) -> Batch:
    return inputs.float(), targets


def with_short_labels(inputs: Tensor, targets: Tensor) -> Batch:
    return inputs, targets.int()


def with_sparse_labels(inputs: Tensor, targets: Tensor) -> Batch:
    return inputs, targets.to_sparse()


def without_targets(inputs: Tensor, targets: Tensor) -> Any:
    return inputs, None


@dataclass(frozen=True)
class Bad:
    """A batch that is spoiled on one worker, or on all."""

    spoil: Callable[[Tensor, Tensor], Batch]
    guilty: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.spoil.__name__}-{'everywhere' if self.guilty is None else self.guilty}"


BAD = [
    Bad(with_nan, None, "inputs contain NaN or infinite values"),
    Bad(with_nan, 1, "worker 1: inputs contain NaN or infinite values"),
    Bad(with_a_large_label, None, r"worker 1: labels run from 0 to 3, but the network has 3 outputs"),
    Bad(with_a_sample_less, None, "a batch of 23 samples cannot be cut into 3 equal micro-batches"),
    Bad(with_a_sample_less, 0, "worker 0: a batch of 23 samples cannot be cut into 3 equal micro-batches"),
    Bad(with_half_the_samples, 1, r"the same batch.*: worker 0 has inputs \[24, 5\].*; worker 1 .* \[12, 5\]"),
    Bad(in_single_precision, 1, "worker 1: inputs are torch.float32, but the network computes in torch.float64"),
    Bad(with_short_labels, 0, r"are out of step\. .*: worker 0 has .*torch.int32.*; worker 1 has .*torch.int64"),
    Bad(without_targets, 0, "worker 0: inputs and targets must be tensors, got Tensor and NoneType"),
    Bad(with_sparse_labels, None, r"targets are sparse \(torch.sparse_coo\), which stages cannot train on"),
]


@dataclass(frozen=True)
class Refusal:
    """What a worker said, whether its parameters and its minimizer's state stayed, and the loss after a good step."""

    message: str
    untouched: bool
    new_loss: float


def refuse(setting: Setting, bad: Bad) -> Refusal:
    """A good step, the bad one, and another good one."""
    with running(setting) as pipeline:
        method = make_method(pipeline, setting)
        batch = setting.case.batch(SAMPLES)
        method.step(*batch)
        before = (values(pipeline), method.state_dict())
        spoiled = bad.spoil(*batch) if bad.guilty in (None, dist.get_rank()) else (batch[0].clone(), batch[1].clone())
        message = error_of(lambda: method.step(*spoiled))
        untouched = same(before, (values(pipeline), method.state_dict()))
        return Refusal(message, untouched, method.step(*batch).new_loss)


def error_of(action: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    try:
        action()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def same(first: Any, second: Any) -> bool:
    """Bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, tuple):
        return all(map(same, first, second))
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return bool(np.array_equal(first, second))


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_batch_is_refused_by_all_workers(workers: Workers, bad: Bad) -> None:
    check_refusals(workers, SETTING, bad)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_labels_are_checked_before_a_schedule_takes_their_gradient(workers: Workers, schedule: Any) -> None:
    check_refusals(workers, replace(SETTING, schedule=schedule), BAD[2])


def check_refusals(workers: Workers, setting: Setting, bad: Bad) -> None:
    found: list[Refusal] = workers.run(setting.workers, refuse, setting, bad)
    assert len({own.message for own in found}) == 1
    with pytest.raises(ValueError, match=bad.message):
        raise ValueError(found[0].message)
    assert all(own.untouched for own in found)
    case = setting.case
    other = SurrogateMinimizer(InProcessPipeline(setting.modules(), case.loss, microbatches=setting.microbatches))
    batch = case.batch(SAMPLES)
    expected = [other.step(*batch).new_loss for _ in range(2)][-1]
    assert [own.new_loss for own in found] == pytest.approx([expected] * len(found), rel=1e-9)


def replace_a_parameter(setting: Setting) -> tuple[str, bool, bool]:
    """On worker 1, which then puts the right one back."""
    modules = setting.modules()
    with running(setting, modules) as pipeline:
        sm = SurrogateMinimizer(pipeline)
        sm.step(*setting.case.batch(SAMPLES))
        before = values(pipeline)
        layer = next(module for module in modules[2].modules() if isinstance(module, nn.Linear))
        own = layer.weight
        if dist.get_rank() == 1:
            layer.weight = nn.Parameter(own.detach().clone())
        message = error_of(lambda: sm.step(*setting.case.batch(SAMPLES)))
        layer.weight = own
        untouched = same(before, values(pipeline))
        return message, untouched, sm.step(*setting.case.batch(SAMPLES)).accepted


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_parameter_replaced_on_one_worker(workers: Workers, schedule: Any) -> None:
    first, second = workers.run(2, replace_a_parameter, replace(SETTING, schedule=schedule))
    assert first == second
    message, untouched, accepted = first
    assert message.startswith("worker 1: parameter 'weight' of layer 9 (Linear) was replaced since the pipeline was ma")
    assert untouched and accepted


def change_in_place(setting: Setting) -> tuple[str, bool]:
    """On worker 1, labels of a batch that was checked before."""
    with running(setting) as pipeline:
        method = make_method(pipeline, setting)
        inputs, targets = setting.case.batch(SAMPLES)
        method.step(inputs, targets)
        before = values(pipeline)
        if dist.get_rank() == 1:
            targets.fill_(7)
        return error_of(lambda: method.step(inputs, targets)), same(before, values(pipeline))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", ["sm", "gd"])
def test_a_known_batch_that_changed_on_one_worker(workers: Workers, method: str, schedule: Any) -> None:
    setting = replace(SETTING, method=method, schedule=schedule)
    (message, untouched), other = workers.run(2, change_in_place, setting)
    assert "worker" in message
    assert untouched and other == (message, untouched)


def copy_on_each(setting: Setting) -> list[tuple[str, bool]]:
    """Each worker is the guilty one once."""
    return [copy_the_batch(setting, guilty) for guilty in range(dist.get_world_size())]


def copy_the_batch(setting: Setting, guilty: int) -> tuple[str, bool]:
    """On one worker: the same batch in other tensors, which is not checked again on the others."""
    with running(setting) as pipeline:
        method = make_method(pipeline, setting)
        batch = setting.case.batch(SAMPLES)
        method.step(*batch)
        before = values(pipeline)
        own = (batch[0].clone(), batch[1].clone()) if dist.get_rank() == guilty else batch
        return error_of(lambda: method.step(*own)), same(before, values(pipeline))


@pytest.mark.parametrize(("method", "schedule"), [("sm", "posted"), ("gd", "posted"), ("gd", "gpipe"), ("gd", "1f1b")])
@pytest.mark.parametrize("replicas", [1, 2])
def test_workers_do_not_wait_for_each_other_when_the_batch_is_new_to_one(
    workers: Workers, method: str, schedule: Any, replicas: int
) -> None:
    setting = replace(SETTING, workers=4 // replicas, method=method, schedule=schedule, microbatches=4)
    for found in zip(*workers.run(4, copy_on_each, setting), strict=True):
        assert set(found) == {found[0]}
        message, untouched = found[0]
        assert message.startswith("the workers are out of step. Possible causes: batches") and untouched


def with_other_options(setting: Setting) -> str:
    with running(setting) as pipeline:
        candidates = (1.0, 0.1) if dist.get_rank() else (1.0,)
        return error_of(lambda: SurrogateMinimizer(pipeline, damping_candidates=candidates))


def test_other_options_on_one_worker(workers: Workers) -> None:
    found = workers.run(2, with_other_options, SETTING)
    assert set(found) == {found[0]}
    assert "worker 0 has the default options; worker 1 has options damping_candidates=(1.0, 0.1)" in found[0]


def with_a_long_description(setting: Setting, last: str) -> str:
    """Longer than the message that it is compared by; worker 1 may have another end."""
    with running(setting) as pipeline:
        described = "and so on " * 100 + (last if dist.get_rank() else "the end")
        try:
            pipeline.agree_on(described)
        except ValueError as error:
            return str(error)
        return "agreed"


def test_long_options_are_compared_whole(workers: Workers) -> None:
    assert workers.run(2, with_a_long_description, SETTING, "the end") == ["agreed", "agreed"]
    for found in workers.run(2, with_a_long_description, SETTING, "an end"):
        assert found.startswith("the workers are out of step")


def without_permission(setting: Setting) -> str:
    with running(setting) as pipeline:
        try:
            with pipeline.agreeing():
                if dist.get_rank() == 1:
                    raise PermissionError("not for you")
        except (OSError, ValueError) as error:
            message = f"{type(error).__name__}: {error}"
        batch = setting.case.batch(SAMPLES)
        return f"{message}, {make_method(pipeline, setting).step(*batch).accepted}"


def test_any_error_before_agreeing_is_told(workers: Workers) -> None:
    assert workers.run(2, without_permission, SETTING) == [
        "AgreedError: worker 1: PermissionError: not for you, True", "PermissionError: not for you, True"
    ]  # fmt: skip


def open_sockets() -> int:
    return sum(os.readlink(link).startswith("socket") for link in Path("/proc/self/fd").iterdir() if link.is_symlink())


def many_pipelines(setting: Setting) -> list[int]:
    """Sockets after each of several pipelines that were closed."""
    counts = []
    for _ in range(4):
        with running(setting) as pipeline:
            make_method(pipeline, setting).step(*setting.case.batch(SAMPLES))
            pipeline.close()
        gc.collect()
        counts.append(open_sockets())
    return counts


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts sockets by /proc")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_closed_pipeline_leaves_no_sockets(workers: Workers, schedule: Any) -> None:
    for counts in workers.run(2, many_pipelines, replace(SETTING, schedule=schedule)):
        assert counts[-1] <= counts[0]


def change_a_stage(setting: Setting, method: str) -> list[float]:
    """Between two steps the last worker's parameters are changed, and all run a new wave."""
    with running(setting) as pipeline:
        trained = build_method(method, pipeline, inner_steps=2)
        batch = setting.case.batch(SAMPLES)
        losses = [trained.step(*batch).new_loss]
        if pipeline.is_last:
            with torch.no_grad():
                list(pipeline.parameters.values())[-1].mul_(0.5)
        pipeline.forget()
        return [*losses, trained.step(*batch).new_loss]


@pytest.mark.parametrize("method", ["sm", "lbfgs"])
def test_a_stage_may_be_changed_between_steps_once_all_are_told(workers: Workers, method: str) -> None:
    pipeline = InProcessPipeline(SETTING.modules(), SETTING.case.loss, microbatches=SETTING.microbatches)
    trained, batch = build_method(method, pipeline, inner_steps=2), SETTING.case.batch(SAMPLES)
    expected = [trained.step(*batch).new_loss]
    with torch.no_grad():
        list(pipeline.parameters.values())[-1].mul_(0.5)
    expected.append(trained.step(*batch).new_loss)
    for found in workers.run(2, change_a_stage, SETTING, method):
        assert found == pytest.approx(expected, rel=1e-9)


def with_dropout(setting: Setting) -> str:
    modules = setting.modules()
    if dist.get_rank() == 1:
        modules[3] = nn.Sequential(modules[3], nn.Dropout(0.5))
    return error_of(lambda: make_pipeline(setting, modules))


def test_a_module_that_cannot_be_trained_is_refused_by_all_workers(workers: Workers) -> None:
    found = workers.run(2, with_dropout, SETTING)
    assert set(found) == {found[0]}
    assert found[0].startswith("worker 1: Dropout '1' in stage 1 is in training mode")


class Centred(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(0)


def with_samples_tied_together(setting: Setting) -> tuple[str, bool]:
    modules = setting.modules()
    modules[3] = nn.Sequential(modules[3], Centred())
    with running(setting, modules) as pipeline:
        method, before = make_method(pipeline, setting), values(pipeline)
        return error_of(lambda: method.step(*setting.case.batch(SAMPLES))), same(before, values(pipeline))


@pytest.mark.parametrize("method", ["sm", "dgl"])
def test_samples_that_one_worker_ties_together_are_refused_by_all(workers: Workers, method: str) -> None:
    found = workers.run(2, with_samples_tied_together, replace(SETTING, method=method))
    assert set(found) == {found[0]} and found[0][1]
    assert re.match(r"worker 1: layer \d+ \(Centred\) gives a sample a different output", found[0][0])


def with_nothing_to_train(setting: Setting) -> str:
    modules = [module.requires_grad_(False) for module in setting.modules()]
    return error_of(lambda: make_pipeline(setting, modules))


def test_a_network_with_nothing_to_train(workers: Workers) -> None:
    found = workers.run(2, with_nothing_to_train, SETTING)
    assert set(found) == {"no parameter of the network requires a gradient: there is nothing to train"}


def error_at_construction(setting: Setting) -> str:
    return error_of(lambda: make_pipeline(setting, setting.modules()))


@pytest.mark.parametrize(
    ("schedule", "microbatches", "message"),
    [
        ("1f1b", 1, "1F1B needs at least as many micro-batches as workers, got 1 for 2"),
        ("zero-bubble", 2, "unknown schedule 'zero-bubble': choose one of posted, gpipe, 1f1b"),
        ("posted", 0, "microbatches must be a whole number from 1 up, got 0"),
    ],
)
def test_what_a_pipeline_cannot_be_made_with(workers: Workers, schedule: Any, microbatches: int, message: str) -> None:
    setting = replace(SETTING, schedule=schedule, microbatches=microbatches)
    found = workers.run(2, error_at_construction, setting)
    assert all(own.startswith(message) for own in found)


def given_differently(setting: Setting, what: str) -> str:
    """One worker alone is given something else, as a script may that builds each stage by itself."""
    last = dist.get_rank() == setting.workers - 1
    loss: Any = CrossEntropy() if last or what != "loss" else None
    mesh = [[1, 0]] if last and what == "mesh" else None
    microbatches = 2 if last and what == "microbatches" else 1
    schedule: Any = "gpipe" if last and what == "schedule" else "posted"
    stages = setting.modules()[2 * dist.get_rank() :][:2]
    return error_of(lambda: Pipeline(stages, loss, microbatches=microbatches, schedule=schedule, mesh=mesh, timeout=9))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("loss", "worker 0: NoneType is not a loss that stages can work with"),
        ("microbatches", "the workers were given different numbers of micro-batches: give all of them the same"),
        ("schedule", "the workers were given different schedules: give all of them the same"),
        ("mesh", "the workers were given different meshes: give all of them the same"),
    ],
)
def test_what_is_given_to_one_worker_alone_all_refuse(workers: Workers, what: str, message: str) -> None:
    for found in workers.run(2, given_differently, SETTING, what):
        assert found.startswith(message)


def refused_pipelines(setting: Setting) -> list[int]:
    """Sockets open after each."""
    counts = []
    for _ in range(4):
        error_of(lambda: make_pipeline(replace(setting, microbatches=0), setting.modules()))
        counts.append(open_sockets())
    return counts


def test_a_pipeline_that_is_refused_leaves_no_sockets(workers: Workers) -> None:
    for counts in workers.run(2, refused_pipelines, SETTING):
        assert counts[-1] <= counts[0]


def with_timeout(timeout: float) -> str:
    return error_of(lambda: Pipeline(nn.Linear(3, 2), CrossEntropy(), timeout=timeout))


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan, math.inf])
def test_a_timeout_that_cannot_be(workers: Workers, timeout: float) -> None:
    assert workers.run(1, with_timeout, timeout) == [f"timeout must be a positive number of seconds, got {timeout}"]


def after_another_method(setting: Setting) -> tuple[str, bool]:
    """The batch's shape is known by then, and so is the batch; the curvature that is asked for is not."""
    modules = setting.modules()
    modules[-1] = nn.Sequential(*modules[-1], nn.Linear(3, 1200).double())
    with running(setting, modules) as pipeline:
        batch = setting.case.batch(SAMPLES)
        build_method("gd", pipeline).step(*batch)
        sm, before = SurrogateMinimizer(pipeline), values(pipeline)
        message = error_of(lambda: sm.step(*batch))
        untouched = same(before, values(pipeline))
        build_method("gd", pipeline).step(*batch)
        return message, untouched


def test_the_curvature_is_looked_at_after_another_method_too(workers: Workers) -> None:
    for message, untouched in workers.run(2, after_another_method, SETTING):
        assert message.startswith("worker 1: the exact factor would have 1200 columns") and untouched


def convert_all(setting: Setting) -> str:
    modules = setting.modules()
    with running(setting, modules) as pipeline:
        method = make_method(pipeline, setting)
        inputs, targets = setting.case.batch(SAMPLES)
        method.step(inputs, targets)
        for module in modules:
            module.float()
        return error_of(lambda: method.step(inputs.float(), targets))


def test_a_network_that_was_converted_needs_a_new_pipeline(workers: Workers) -> None:
    for found in workers.run(2, convert_all, SETTING):
        assert "was torch.float64 on cpu when the pipeline was made, and is torch.float32" in found


def test_a_pipeline_needs_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="torch's process group is not initialised: start with `surmin train"):
        Pipeline(nn.Linear(3, 2), CrossEntropy(), timeout=TIMEOUT)


def refuse_later(method: str) -> tuple[str, bool]:
    """What this worker says of a second batch whose labels only the last worker's outputs can tell to be wrong."""
    setting = Setting(workers=2, stages=2, microbatches=1, method=method)
    with running(setting) as pipeline:
        trained = make_method(pipeline, setting)
        inputs, targets = setting.case.batch(samples=SAMPLES)
        trained.step(inputs, targets)
        before = values(pipeline)
        complaint = error_of(lambda: trained.step(inputs.clone(), targets + 100))
        return complaint, same(before, values(pipeline))


@pytest.mark.parametrize("method", ["ddg", "dladmm", "dni", "dgl"])
def test_a_later_batch_that_does_not_fit_is_refused_by_all_workers_of_methods_that_do_not_wait(
    workers: Workers, method: str
) -> None:
    for complaint, unmoved in workers.run(2, refuse_later, method):
        assert "labels run from" in complaint
        assert unmoved


def refuse_in_one_replica(method: str) -> str:
    """The last worker's share of a later batch does not fit; all replicas wait for its gradients."""
    setting = Setting(workers=2, stages=2, microbatches=1, method=method)
    with running(setting) as pipeline:
        trained = make_method(pipeline, setting)
        inputs, targets = setting.case.batch(samples=SAMPLES)
        trained.step(inputs, targets)
        spoiled = targets + 100 if dist.get_rank() == 3 else targets.clone()
        return error_of(lambda: trained.step(inputs.clone(), spoiled))


@pytest.mark.parametrize("method", ["ddg", "dgl"])
def test_a_later_batch_that_does_not_fit_in_one_replica_is_refused_by_all(workers: Workers, method: str) -> None:
    found = workers.run(4, refuse_in_one_replica, method)
    assert set(found) == {found[0]} and found[0].startswith("worker 3: labels run from 100")


def refuse_twice(setting: Setting, what: str) -> tuple[str, str]:
    """Something changes on worker 1; what every worker says of a known batch, and of the next step."""
    with running(setting) as pipeline:
        method = make_method(pipeline, setting)
        batch = setting.case.batch(SAMPLES)
        method.step(*batch)
        if dist.get_rank() == 1 and what == "batch":
            batch = batch[0].clone(), batch[1].clone()
        elif dist.get_rank() == 1:
            pipeline.stages[0].layers[0].module.requires_grad_(False)
        said = []
        for _ in range(2):
            try:
                method.step(*batch)
            except (ValueError, RuntimeError) as error:
                said.append(str(error))
        return said[0], said[1]


@pytest.mark.parametrize(("what", "message"), [("batch", "are out of step"), ("network", "was frozen since")])
def test_after_an_error_in_a_wave_no_worker_waits_for_another(workers: Workers, what: str, message: str) -> None:
    for first, second in workers.run(2, refuse_twice, SETTING, what):
        assert message in first
        assert re.match(r"(worker \d: )?this pipeline cannot go on after an error in the middle of a wave", second)
        assert what == "batch" or second.startswith("this pipeline")


def with_many_outputs(setting: Setting) -> tuple[str, bool]:
    """An exact factor of them would be too wide, which only the last worker can see."""
    modules = setting.modules()
    modules[-1] = nn.Sequential(*modules[-1], nn.Linear(3, 1200).double())
    with running(setting, modules) as pipeline:
        method, before = make_method(pipeline, setting), values(pipeline)
        return error_of(lambda: method.step(*setting.case.batch(SAMPLES))), same(before, values(pipeline))


@pytest.mark.parametrize("method", ["sm", "kfac", "cgblock-ggn"])
def test_too_many_outputs_for_an_exact_factor(workers: Workers, method: str) -> None:
    found = workers.run(2, with_many_outputs, replace(SETTING, method=method))
    assert set(found) == {("worker 1: the exact factor would have 1200 columns per sample, one for every output: "
                           "choose a rank for random columns instead, for instance rank=2", True)}  # fmt: skip


class Unfinished(nn.Linear):
    """Its parameters cannot be looked at yet."""

    def named_parameters(self, *arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no parameters yet")


def with_an_unfinished_layer(setting: Setting, kind: str) -> str:
    modules = setting.modules()
    if dist.get_rank() == 1:
        last = {"raises": Unfinished(3, 3), "lazy": nn.LazyLinear(3), "none": "layer"}[kind]
        modules = [*modules[:-1], last]  # type: ignore[list-item]
    return error_of(lambda: make_pipeline(setting, modules))


@pytest.mark.parametrize("kind", ["raises", "lazy", "none"])
def test_whatever_is_wrong_with_a_module_all_workers_hear_of_it(workers: Workers, kind: str) -> None:
    found = workers.run(2, with_an_unfinished_layer, SETTING, kind)
    assert set(found) == {found[0]} and found[0].startswith("worker 1: ")


def held_by_senders(setting: Setting) -> int:
    """The most messages of a kind that this worker still holds after some rounds and predictions."""
    with running(setting) as pipeline:
        trained = make_method(pipeline, setting)
        for _ in range(9):
            trained.step(*setting.case.batch(samples=SAMPLES))
            pipeline.predict(setting.case.batch(samples=SAMPLES)[0])
        return max((len(sender._underway) for sender in pipeline._processes._senders.values()), default=0)


@pytest.mark.parametrize("microbatches", [1, 3])
def test_a_worker_holds_no_more_messages_than_a_wave_has(workers: Workers, microbatches: int) -> None:
    setting = Setting(workers=2, stages=2, microbatches=microbatches, method="gd")
    assert max(workers.run(2, held_by_senders, setting)) <= microbatches


@pytest.mark.parametrize("method", ["dgl", "ddg"])
def test_nor_more_than_some_rounds_where_it_may_be_ahead(workers: Workers, method: str) -> None:
    setting = Setting(workers=2, stages=2, microbatches=1, method=method)
    assert max(workers.run(2, held_by_senders, setting)) <= 4


def shuffle_differently(setting: Setting) -> tuple[str, bool]:
    """Every worker draws an order of its own, as a sampler for data parallelism does; then they think better of it."""
    with running(setting) as pipeline:
        method, (inputs, targets) = make_method(pipeline, setting), setting.case.batch(SAMPLES)
        before, order = values(pipeline), torch.arange(SAMPLES).roll(dist.get_rank())
        message = error_of(lambda: method.step(inputs[order], targets[order]))
        untouched = same(before, values(pipeline))
        method.step(inputs, targets)
        return message, untouched and not same(before, values(pipeline))


@pytest.mark.parametrize("method", ["sm", "adam"])
def test_batches_in_another_order_are_refused_by_all(workers: Workers, method: str) -> None:
    for message, goes_on in workers.run(2, shuffle_differently, replace(SETTING, method=method)):
        assert "batches with different shapes or targets" in message and goes_on


def hold_the_whole_network(setting: Setting) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Pipeline(setting.modules(), setting.case.loss, timeout=TIMEOUT).close()
    return [str(warning.message) for warning in caught]


def test_workers_that_hold_the_same_are_told(workers: Workers) -> None:
    for said in workers.run(2, hold_the_whole_network, SETTING):
        assert len(said) == 1 and said[0].startswith("workers 0 and 1 begin with the same parameters: each must hold")
