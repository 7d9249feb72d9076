"""Over processes the same numbers come out as in one process, and what is counted there is what was really sent."""

import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, cycle, product
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from surmin import StepReport
from surmin.curvature.output_curvature import Message
from surmin.pipeline.channel import Receiver, Route, Sender
from surmin.pipeline.process_links import ProcessLinks
from surmin.pipeline.schedule_names import SCHEDULES
from tests.distributed.settings import (
    SAMPLES,
    Outcome,
    Setting,
    in_one_process,
    make_method,
    on_this_worker,
    run_rounds,
    running,
    values,
)
from tests.distributed.workers import Workers

OPTIONS: dict[str, dict[str, Any]] = {
    "factor": {"curvature_fraction": 1.0},
    "rank": {"rank": 2},
    "fraction": {},
    "uneven": {"curvature_fraction": 0.3},
    "sample": {"curvature": "sample", "power_steps": 1},
    "scalar": {"curvature": "scalar", "power_steps": 1},
    "trips": {"preset": "trips", "inner_steps": 1, "inner_fraction": 0.4, "damping": 10.0},
    "nonlinear": {"preset": "trips", "order": "parallel", "inner_steps": 1, "damping": 1.0},
    "paper": {"preset": "paper", "inner_steps": 2, "power_steps": 1},
    "stage": {"blocks": "stage"},
    "bfloat16": {"wire": "bfloat16"},
    "int8": {"wire": "int8"},
}
"""Few inner steps: conjugate gradient on an undamped, singular system returns its own rounding errors, enlarged."""
METHODS: dict[str, dict[str, Any]] = {
    "gd": {}, "sgd": {}, "adam": {}, "gd-armijo": {}, "lbfgs": {"inner_steps": 2},
    "sso": {"inner_steps": 2}, "locoprop": {"inner_steps": 3}, "dladmm": {},
    "dgl": {}, "interlocking": {}, "dni": {"inner_steps": 2},
    "ddg": {}, "features-replay": {}, "fdg": {},
}  # fmt: skip

CANNOT = {("locoprop", "gpt"), ("dladmm", "gpt"), ("dladmm", "cnn")}
"""Methods and networks that do not go together: GELU has no matching loss, and dladmm wants linear layers."""

LOSS_WHERE_IT_IS = {
    "locoprop",
    "dladmm",
    "gd",
    "sgd",
    "adam",
    "dgl",
    "interlocking",
    "dni",
    "ddg",
    "features-replay",
    "fdg",
}
"""Methods whose loss only the last worker knows."""


def sm(workers: int, stages: int, microbatches: int, schedule: Any, network: str, options: str) -> Setting:
    return Setting(workers, stages, microbatches, network, schedule, "sm", tuple(OPTIONS[options].items()))


def method(
    workers: int, stages: int, microbatches: int, schedule: Any, name: str, network: str = "mlp", **options: Any
) -> Setting:
    return Setting(workers, stages, microbatches, network, schedule, name, (*METHODS[name].items(), *options.items()))


FEW = [  # every option and every method; the slow tests have every shape and network, options and methods by turns
    sm(1, 4, 3, "1f1b", "mlp", "factor"),
    sm(2, 4, 3, "gpipe", "mlp", "rank"),
    sm(2, 8, 8, "1f1b", "mlp", "fraction"),
    sm(2, 8, 3, "posted", "mlp", "stage"),
    sm(2, 4, 8, "posted", "mlp", "trips"),
    sm(4, 8, 3, "posted", "mlp", "nonlinear"),
    sm(2, 4, 3, "posted", "mlp", "uneven"),
    sm(4, 4, 3, "posted", "cnn", "uneven"),
    sm(4, 4, 8, "1f1b", "mlp", "bfloat16"),
    sm(2, 4, 3, "posted", "mlp", "int8"),
    sm(2, 2, 3, "1f1b", "mlp", "sample"),
    sm(4, 4, 1, "gpipe", "mlp", "scalar"),
    sm(4, 8, 3, "posted", "mlp", "paper"),
    sm(2, 4, 3, "1f1b", "cnn", "factor"),
    sm(4, 8, 3, "gpipe", "cnn", "trips"),
    sm(4, 8, 1, "posted", "gpt", "rank"),
    method(2, 4, 3, "posted", "gd"),
    method(4, 8, 8, "1f1b", "sgd"),
    method(2, 2, 3, "gpipe", "adam", "gpt"),
    method(4, 4, 3, "posted", "gd-armijo"),
    method(2, 4, 3, "1f1b", "lbfgs"),
    method(2, 4, 3, "gpipe", "sso"),
    method(2, 4, 3, "posted", "locoprop"),
    method(2, 4, 3, "gpipe", "dladmm"),
    method(2, 4, 3, "posted", "dgl"),
    method(4, 8, 1, "gpipe", "dgl", "cnn"),
    method(4, 4, 3, "posted", "interlocking"),
    method(2, 4, 3, "posted", "ddg", "gpt"),
    method(4, 4, 3, "gpipe", "features-replay"),
    method(2, 2, 3, "posted", "fdg", "cnn"),
    method(4, 4, 3, "posted", "dni"),
    method(2, 4, 3, "posted", "dni", "gpt"),
]  # fmt: skip
VARIANTS = [
    method(2, 4, 3, "posted", "sso", inner_optimizer="gd"),
    method(2, 4, 3, "gpipe", "sso", "gpt", inner_optimizer="adam"),
    method(2, 4, 3, "posted", "locoprop", "gpt", local_loss="squared"),
    method(4, 4, 3, "gpipe", "locoprop", local_loss="squared"),
]
SLOW_VARIANTS = [
    method(4, 8, 8, "1f1b", "sso", "cnn", inner_optimizer="gd"),
    method(4, 4, 8, "posted", "sso", inner_optimizer="adam"),
    method(4, 8, 3, "posted", "locoprop", "gpt", local_loss="squared", inner_optimizer="gd"),
]

COMBINE = "SURMIN_COMBINE" in os.environ
"""Whether the slow tests have shapes, networks, curvatures and schedules in every combination: a quarter of an hour.

Otherwise they have every network, curvature and schedule together over one shape.
"""
DRAW = 745
"""A seed by which every network, curvature and schedule has every number of workers, of stages and of micro-batches."""
NETWORKS = ("mlp", "cnn", "gpt")
CURVATURES = ("factor", "fraction", "rank", "sample", "scalar")
MICROBATCHES = (1, 3, 8)
SHAPES = [shape for shape in product((1, 2, 4), (2, 4, 8), MICROBATCHES) if shape[0] <= shape[1]]
"""Workers, stages and micro-batches."""


def every_shape() -> list[Setting]:
    """Every shape with every network; options, methods and schedules take turns."""
    makers = cycle([*((sm, name) for name in OPTIONS), *((method, name) for name in METHODS)])
    settings = []
    for number, (network, shape) in enumerate(product(NETWORKS, SHAPES)):
        make, name = next(maker for maker in makers if (maker[1], network) not in CANNOT)
        turn = number + number // len(MICROBATCHES)  # one more, or a schedule would always have the same micro-batches
        schedule = SCHEDULES[turn % len(SCHEDULES)]
        order = (network, name) if make is sm else (name, network)
        settings.append(make(*shape, schedule if is_possible(schedule, *shape) else "posted", *order))
    return settings


def every_combination() -> list[list[Setting]]:
    """For every network, curvature and schedule every shape."""
    return [
        [sm(*shape, schedule, network, curvature) for shape in SHAPES if is_possible(schedule, *shape)]
        for network, curvature, schedule in product(NETWORKS, CURVATURES, SCHEDULES)
    ]


def one_shape_each() -> list[Setting]:
    """For every network, curvature and schedule a shape that is drawn, always the same."""
    draw = random.Random(DRAW)
    return [draw.choice(settings) for settings in every_combination()]


def slow_settings() -> list[Setting]:
    """Every shape, and of all combinations every one or one of each kind; none of them twice."""
    combinations = chain(*every_combination()) if COMBINE else one_shape_each()
    return list(dict.fromkeys([*every_shape(), *combinations, *SLOW_VARIANTS]))


def is_possible(schedule: str, workers: int, _stages: int, microbatches: int) -> bool:
    """1F1B wants a micro-batch a worker."""
    return schedule != "1f1b" or microbatches >= workers


@pytest.mark.parametrize("setting", [*FEW, *VARIANTS], ids=str)
def test_workers_train_to_the_numbers_of_one_process(workers: Workers, setting: Setting) -> None:
    check(workers, setting)


def test_every_schedule_has_every_number_of_micro_batches() -> None:
    pairs = {(setting.schedule, setting.microbatches) for setting in every_shape()}
    assert pairs == set(product(SCHEDULES, MICROBATCHES))


def test_what_is_drawn_of_all_combinations_leaves_nothing_out() -> None:
    def shape(setting: Setting) -> tuple[int, int, int]:
        return setting.workers, setting.stages, setting.microbatches

    def pairs(settings: Iterable[Setting]) -> set[tuple[Any, int, int]]:
        return {
            (kind, position, number)
            for setting in settings
            for kind in (setting.network, setting.options, setting.schedule)
            for position, number in enumerate(shape(setting))
        }

    drawn = one_shape_each()
    kinds = {(setting.network, setting.options, setting.schedule) for setting in drawn}
    assert len(kinds) == len(NETWORKS) * len(CURVATURES) * len(SCHEDULES)
    assert set(map(shape, drawn)) == set(SHAPES)
    assert pairs(drawn) == pairs(chain(*every_combination()))


@pytest.mark.slow
@pytest.mark.parametrize("setting", slow_settings(), ids=str)
def test_every_shape(workers: Workers, setting: Setting) -> None:
    check(workers, setting)


def check(workers: Workers, setting: Setting, task: Callable[[Setting], Outcome] = on_this_worker) -> None:
    workers.begin(setting.workers, task, setting)
    alone, counted = in_one_process(setting.alone), in_one_process(setting)
    found: list[Outcome] = workers.results()
    parameters = {name: value for own in found for name, value in own.parameters.items()}
    assert sum(len(own.parameters) for own in found) == len(parameters) == len(alone.parameters)
    for name, value in alone.parameters.items():
        np.testing.assert_allclose(parameters[name], value, rtol=0, atol=1e-9, err_msg=name)
    for reports in zip(alone.reports, counted.reports, *(own.reports for own in found), strict=True):
        check_round(*reports[:2], reports[2:], everywhere=is_known_to_all(setting))
    check_work(setting, counted, found)


def is_known_to_all(setting: Setting) -> bool:
    """Whether every worker knows the loss."""
    searches = dict(setting.options).get("safeguard", "armijo") == "armijo"
    return setting.method not in LOSS_WHERE_IT_IS and (searches or setting.method != "cgblock")


def check_work(setting: Setting, counted: Outcome, found: Sequence[Outcome]) -> None:
    """A worker counts in units of its own stages' gradients; together they did what one process does.

    The unit is 1 where stages multiply no matrices. With `newton` every worker finds the eigenvalues of all of H again.
    """
    assert sum(own.unit for own in found if own.unit > 1) == counted.unit
    size = sum(value.size for value in counted.parameters.values())
    again = 9 * size**3 * (setting.workers - 1) if setting.method == "newton" else 0
    for expected, *reports in zip(counted.reports, *(own.reports for own in found), strict=True):
        work = sum(report.gradient_equivalents * own.unit for report, own in zip(reports, found, strict=True))
        assert work == pytest.approx(expected.gradient_equivalents * counted.unit + again, rel=1e-9)


def check_round(alone: StepReport, counted: StepReport, found: Sequence[StepReport], *, everywhere: bool) -> None:
    """All workers, or the last, know what one process does; together they sent what was counted there."""
    for report in found if everywhere else found[-1:]:
        assert (report.accepted, report.tries) == (alone.accepted, alone.tries)
        numbers = [(own.loss, own.new_loss, own.damping) for own in (report, alone)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-9, nan_ok=True)
    if everywhere:
        assert len({(report.loss, str(report.new_loss), report.gradient_norm) for report in found}) == 1
    assert sum(report.messages for report in found) == counted.messages
    assert sum(report.bytes_sent for report in found) == counted.bytes_sent
    assert {report.forward_waves for report in found} == {counted.forward_waves}


class Strided(nn.Module):
    """The same numbers, laid out column by column."""

    def forward(self, state: Tensor) -> Tensor:
        return state.t().contiguous().t()


def strided(setting: Setting) -> Outcome:
    """As `on_this_worker`, with a batch and outputs of a stage that are not contiguous."""
    modules = setting.modules()
    modules[1] = nn.Sequential(*modules[1], Strided())
    with running(setting, modules) as pipeline:
        method = make_method(pipeline, setting)
        inputs, targets = setting.case.batch(SAMPLES)
        batch = Strided()(inputs), targets
        reports = run_rounds(method, setting, batch)
        return Outcome(values(pipeline), reports, pipeline.gradient_operations(inputs.shape))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tensors_laid_out_otherwise(workers: Workers, schedule: Any) -> None:
    setting = sm(2, 4, 3, schedule, "mlp", "fraction")
    for found, expected in zip(workers.run(2, strided, setting), workers.run(2, on_this_worker, setting), strict=True):
        losses = [[report.new_loss for report in own.reports] for own in (found, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def in_order(setting: Setting) -> Outcome:
    """As `on_this_worker`, with waves that go as over NCCL at its strictest.

    Receives are made when a message is wanted, messages cannot be told apart by tags, and whoever sends waits until the
    message has been received.
    """
    link, send, receive = ProcessLinks.__init__, Sender.send, Receiver.receive
    arrived = 1

    def link_in_order(
        self: ProcessLinks, pipes: Any, stages: Any, blocks: Any, routes: dict[str, Route], replicas: Any
    ) -> None:
        ordered = {wave: replace(routes[wave], posts_ahead=False) for wave in ("activations", "curvature")}
        link(self, pipes, stages, blocks, routes | ordered, replicas)

    def send_and_wait(self: Sender, message: Message) -> None:
        send(self, message)
        if not self.route.posts_ahead:
            self.flush()
            dist.recv(torch.empty(1, device="cpu"), self.peer, group=self.route.group, tag=arrived)

    def receive_and_tell(self: Receiver) -> Message:
        message = receive(self)
        if not self.route.posts_ahead:
            dist.send(torch.ones(1, device="cpu"), self.peer, group=self.route.group, tag=arrived)
        return message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessLinks, "__init__", link_in_order)
        patch.setattr(Sender, "send", send_and_wait)
        patch.setattr(Receiver, "receive", receive_and_tell)
        return on_this_worker(setting)


@pytest.mark.parametrize("setting", [
    sm(2, 4, 3, "posted", "mlp", "fraction"), sm(4, 8, 3, "posted", "mlp", "factor"),
    sm(4, 4, 3, "posted", "mlp", "trips"), *(method(4, 4, 3, "posted", name) for name in sorted(METHODS)),
], ids=str)  # fmt: skip
def test_messages_that_come_in_the_order_of_sending_and_wait_for_the_receiver(
    workers: Workers, setting: Setting
) -> None:
    check(workers, setting, in_order)
