"""What a worker counts is what goes out by torch's process groups, tensor by tensor, whoever hands it to them."""

from typing import Any

import pytest

from surmin import StepReport
from surmin.pipeline.comparison import STATUS_BYTES
from tests.distributed.settings import SAMPLES, Setting, make_method, running
from tests.distributed.watching import Sent, watched
from tests.distributed.workers import Workers


def third_step(setting: Setting) -> tuple[StepReport, Sent]:
    """By then all receivers know the shapes: no message has a header."""
    with running(setting) as pipeline:
        method, batch = make_method(pipeline, setting), setting.case.batch(SAMPLES)
        for _ in range(2):
            method.step(*batch)
        with watched() as sent:
            return method.step(*batch), sent


def setting(method: str, schedule: Any = "posted", microbatches: int = 1, workers: int = 2, **options: Any) -> Setting:
    return Setting(workers, 4, microbatches, "mlp", schedule, method, tuple(options.items()))


SETTINGS = [
    setting("gd"),
    setting("gd", "gpipe", 2),
    setting("adam"),
    setting("adam", "1f1b", 2),
    setting("dgl"),
    setting("fdg", microbatches=2),
    setting("sm"),
    setting("sm", microbatches=2),
    setting("sm", "gpipe", 2),
    setting("sm", wire="int8"),
    setting("sm", preset="trips"),
    setting("sm", microbatches=2, preset="trips"),
    setting("sm", workers=4),
]
UNCOMPARED = {"dgl", "fdg"}
"""Methods that compare a batch at the first step of its shape alone: no status messages later."""


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_what_is_counted_is_what_is_sent(workers: Workers, setting: Setting) -> None:
    statuses = 0 if setting.method in UNCOMPARED else setting.workers - 1
    for report, sent in workers.run(setting.workers, third_step, setting):
        assert sent.collectives == []
        assert sent.sizes.count(STATUS_BYTES) >= statuses
        assert report.bytes_sent == sum(sent.sizes) - statuses * STATUS_BYTES
        assert report.messages == len(sent.sizes) - sent.following - statuses
