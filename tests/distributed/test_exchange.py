"""Channels between stages on several workers carry, count and refuse what they do in one process."""

import pytest
import torch
import torch.distributed as dist

from surmin.curvature.output_curvature import Message
from surmin.pipeline.exchange import Exchange
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.worker_pipeline import WorkerPipeline
from tests.distributed.settings import SAMPLES, Setting, running
from tests.distributed.test_bad_input import BAD, Bad, error_of
from tests.distributed.workers import Workers

SETTING = Setting(workers=2, stages=4, microbatches=3)
Found = list[tuple[str, int, int, list[float]]]
"""Channel, stage, round, and the numbers that were taken."""


def value(stage: int, number: int, part: int) -> float:
    return 100.0 * stage + 10 * number + part


def message(stage: int, number: int, part: int) -> Message:
    return (torch.full((2, 3), value(stage, number, part)), torch.tensor([part]))


def talk(pipeline: WorkerPipeline, setting: Setting) -> tuple[Found, int, int, tuple[int, int]]:
    """Three rounds on batches of two sizes: activations are taken at once, gradients a round later."""
    exchange = pipeline.exchange(("activation",), ("gradient",))
    sizes = [SAMPLES, SAMPLES // 2, SAMPLES]
    batches = [setting.case.batch(size) for size in sizes]
    found: Found = []
    for number, batch in enumerate(batches):
        exchange.begin(*batch)
        for position in range(len(pipeline.stages)):
            stage, above = exchange.stages_below + position, pipeline.has_above(position)
            parts = range(setting.microbatches)
            if pipeline.has_below(position):
                found.append(("activation", stage, number, [first(exchange, "activation", position) for _ in parts]))
                for part in parts:
                    exchange.put("gradient", position, message(stage, number, part))
            if above:
                for part in parts:
                    exchange.put("activation", position, message(stage, number, part))
            if above and number:
                shape = batches[number - 1][0].shape
                taken = [first(exchange, "gradient", position, shape) for _ in parts]
                found.append(("gradient", stage, number, taken))
    counts = (pipeline.traffic.messages, pipeline.traffic.bytes)
    return found, *counts, (exchange.stages_below, exchange.stages_above)


def first(exchange: Exchange, channel: str, position: int, shape: torch.Size | None = None) -> float:
    tensor, _ = exchange.take(channel, position, shape)
    return float(tensor[0, 0])


def talk_here(setting: Setting) -> tuple[Found, int, int, tuple[int, int]]:
    """The last round's gradients are never taken; `running` waits until all has been sent."""
    with running(setting) as pipeline:
        return talk(pipeline, setting)


@pytest.mark.parametrize("count", [2, 4])
def test_messages_between_workers(workers: Workers, count: int) -> None:
    setting = Setting(workers=count, stages=4, microbatches=3)
    workers.begin(count, talk_here, setting)
    alone = InProcessPipeline(setting.modules(), setting.case.loss, microbatches=3, workers=count)
    expected, messages, size, _ = talk(alone, setting)
    found = workers.results()
    assert sorted(one for own in found for one in own[0]) == sorted(expected) == sorted(_said())
    assert (sum(own[1] for own in found), sum(own[2] for own in found)) == (messages, size)
    assert messages == (count - 1) * 3 * 3 * 2 and size == messages * (6 * 4 + 8)
    each = 4 // count
    assert [own[3] for own in found] == [(each * rank, 4 - each * (rank + 1)) for rank in range(count)]


def _said() -> Found:
    said: Found = []
    for number in range(3):
        for stage in range(4):
            below, above = ([value(other, now, part) for part in range(3)] for other, now in
                            ((stage - 1, number), (stage + 1, number - 1)))  # fmt: skip
            said += [("activation", stage, number, below)] * (stage > 0)
            said += [("gradient", stage, number, above)] * (stage < 3 and number > 0)
    return said


def refuse(setting: Setting, bad: Bad) -> tuple[str, str, bool]:
    """What is said at the first batch of a shape, twice; a good one then is taken."""
    with running(setting) as pipeline:
        exchange = pipeline.exchange(("activation",))
        batch = setting.case.batch(SAMPLES)
        spoiled = bad.spoil(*batch) if bad.guilty in (None, dist.get_rank()) else batch
        said = [error_of(lambda: exchange.begin(*spoiled)) for _ in range(2)]
        exchange.begin(*batch)
        return said[0], said[1], exchange.stages_below + exchange.stages_above + len(pipeline.stages) == setting.stages


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_first_batch_is_refused_by_all_workers(workers: Workers, bad: Bad) -> None:
    found = workers.run(2, refuse, SETTING, bad)
    assert set(found) == {found[0]}
    message, again, is_whole = found[0]
    assert message == again and is_whole
    words = bad.message if bad.guilty is not None else bad.message.removeprefix("worker 1: ")  # all see it
    with pytest.raises(ValueError, match=words):
        raise ValueError(message)
