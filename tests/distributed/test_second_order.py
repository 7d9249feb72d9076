"""The methods of second order on workers: the numbers of one process, and what is counted there is what was sent."""

from typing import Any

import numpy as np
import pytest

from tests.distributed.settings import Setting, make_method, running
from tests.distributed.test_equality import check
from tests.distributed.test_rounds import resume_here
from tests.distributed.workers import Workers


def setting(
    workers: int, stages: int, microbatches: int, schedule: Any, method: str, network: str = "mlp", **options: Any
) -> Setting:
    return Setting(workers, stages, microbatches, network, schedule, method, tuple(options.items()))


SETTINGS = [
    setting(2, 4, 3, "posted", "cgblock", inner_steps=3),
    setting(4, 8, 8, "1f1b", "cgblock", inner_steps=2),
    setting(2, 4, 3, "gpipe", "cgblock", "cnn", inner_steps=2),
    setting(2, 2, 3, "posted", "cgblock", "gpt", inner_steps=1),
    setting(2, 4, 3, "gpipe", "cgblock", inner_steps=2, safeguard="none"),
    setting(2, 4, 3, "1f1b", "cgblock", "gpt", inner_steps=1, safeguard="damping"),
    setting(2, 4, 3, "1f1b", "cgblock-ggn", inner_steps=2),
    setting(4, 4, 1, "posted", "cgblock-ggn", "cnn", inner_steps=2, curvature_fraction=1.0),
    setting(2, 4, 3, "posted", "kfac"),
    setting(4, 8, 8, "gpipe", "kfac", "cnn", rank=2),
    setting(2, 4, 3, "posted", "newton", "narrow"),
    setting(4, 4, 1, "gpipe", "newton", "narrow", safeguard="none", damping=1.0),
]
RESUMED = [
    setting(2, 4, 3, "posted", "cgblock-ggn", inner_steps=3),
    setting(2, 4, 3, "gpipe", "kfac"),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_workers_train_to_the_numbers_of_one_process(workers: Workers, setting: Setting) -> None:
    check(workers, setting)


@pytest.mark.parametrize("setting", RESUMED, ids=str)
def test_every_worker_resumes_from_its_own_state(workers: Workers, setting: Setting) -> None:
    for whole, resumed in workers.run(setting.workers, resume_here, setting):
        assert whole.keys() == resumed.keys()
        for name, value in whole.items():
            np.testing.assert_array_equal(resumed[name], value)


def refused_here(setting: Setting) -> str:
    """What this worker says to a method that cannot run on the network."""
    with running(setting) as pipeline, pytest.raises(ValueError) as caught:
        make_method(pipeline, setting)
    return str(caught.value)


def test_every_worker_refuses_a_network_that_one_cannot_train(workers: Workers) -> None:
    first, second = workers.run(2, refused_here, setting(2, 2, 1, "posted", "kfac", "gpt"))
    for found in (first, second):
        assert "kfac needs linear layers and convolutions" in found and "layer 0 (" in found
