"""Delayed gradients over workers: the numbers of one process, and nobody waits for messages of the same round."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.worker_pipeline import WorkerPipeline
from tests.distributed.settings import SAMPLES, Setting, make_method, make_pipeline, running, values
from tests.distributed.workers import Workers

METHODS = ["ddg", "features-replay", "fdg"]
ROUNDS = 12
OPTIONS = (("lr", 0.01), ("optimizer", "sgd"))
Outcome = tuple[dict[str, Any], list[float], int, int]


def train(pipeline: WorkerPipeline, setting: Setting) -> Outcome:
    """On other batches every round, the first stage's gradients included: parameters, losses, messages, bytes."""
    method = make_method(pipeline, setting)
    sizes = [SAMPLES, SAMPLES // 2]
    losses = [method.step(*setting.case.batch(sizes[t % 3 == 1], seed=t)).loss for t in range(ROUNDS)]
    return values(pipeline), losses, pipeline.traffic.messages, pipeline.traffic.bytes


def train_here(setting: Setting) -> Outcome:
    with running(setting) as pipeline:
        return train(pipeline, setting)


@pytest.mark.parametrize("workers_and_stages", [(2, 2), (2, 4), (4, 4)], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_workers_train_to_the_numbers_of_one_process(
    workers: Workers, name: str, workers_and_stages: tuple[int, int]
) -> None:
    count, stages = workers_and_stages
    check(workers, Setting(count, stages, 3, "mlp", "posted", name, OPTIONS))


@pytest.mark.parametrize("count", [2, 4])
def test_gradients_shrink_on_workers_as_in_one_process(workers: Workers, count: int) -> None:
    setting = Setting(count, 4, 3, "mlp", "posted", "fdg", (*OPTIONS, ("shrinking", 0.5)))
    check(workers, setting)


def check(workers: Workers, setting: Setting) -> None:
    workers.begin(setting.workers, train_here, setting)
    alone = InProcessPipeline(setting.modules(), setting.case.loss, microbatches=3, workers=setting.workers)
    parameters, losses, messages, size = train(alone, setting)
    found: list[Outcome] = workers.results()
    together = {key: array for own in found for key, array in own[0].items()}
    assert together.keys() == parameters.keys()
    for key, array in parameters.items():
        np.testing.assert_allclose(together[key], array, rtol=0, atol=1e-9, err_msg=key)
    np.testing.assert_allclose(found[-1][1], losses, atol=1e-9)
    assert (sum(own[2] for own in found), sum(own[3] for own in found)) == (messages, size)


def step_behind(setting: Setting, late: int) -> int:
    """The late worker begins each round when the other has ended it, which therefore must need nothing of the round."""
    token = torch.zeros(1, device="cpu")
    with running(setting) as pipeline:
        method = make_method(pipeline, setting)
        for number in range(ROUNDS):
            if number and dist.get_rank() == late:
                dist.recv(token, 1 - late)
            method.step(*setting.case.batch(SAMPLES))
            if number and dist.get_rank() != late:
                dist.send(token, late)
    return pipeline.traffic.messages


@pytest.mark.parametrize(("name", "late"), [*((name, 1) for name in METHODS), ("fdg", 0)])
def test_a_worker_ends_a_round_that_the_other_has_not_begun(workers: Workers, name: str, late: int) -> None:
    """The lower worker's backward takes no message of its round, with fdg neither does the upper one's forward."""
    setting = Setting(2, 2, 3, "mlp", "posted", name, OPTIONS)
    found = workers.run(2, step_behind, setting, late)
    expected = [ROUNDS, ROUNDS - 1] if name == "fdg" else [ROUNDS, ROUNDS]
    assert found == [3 * rounds for rounds in expected]


def resume(setting: Setting, rounds: int) -> bool:
    """Whether training goes on from the state of every worker, with messages under way, as it would have."""
    batches = [setting.case.batch(SAMPLES, seed=number) for number in range(rounds + 6)]
    with running(setting) as whole, running(setting) as resumed:
        method, other = make_method(whole, setting), make_method(resumed, setting)
        for batch in batches[:rounds]:
            method.step(*batch)
        with torch.no_grad():
            for name, parameter in resumed.parameters.items():
                parameter.copy_(whole.parameters[name])
        other.load_state_dict(method.state_dict())
        for batch in batches[rounds:]:
            method.step(*batch)
            other.step(*batch)
        return all(torch.equal(whole.parameters[name], resumed.parameters[name]) for name in whole.parameters)


@pytest.mark.parametrize("rounds", [0, 1, 4])
@pytest.mark.parametrize("name", METHODS)
def test_training_resumes_with_messages_under_way(workers: Workers, name: str, rounds: int) -> None:
    setting = Setting(2, 4, 3, "mlp", "posted", name, OPTIONS)
    assert workers.run(2, resume, setting, rounds) == [True, True]


def step_once(setting: Setting) -> bool:
    """What is sent in the only round is never taken; nobody waits for that in the end."""
    pipeline = make_pipeline(setting, setting.modules())
    make_method(pipeline, setting).step(*setting.case.batch(SAMPLES))
    pipeline.flush()
    return True


@pytest.mark.parametrize("name", METHODS)
def test_messages_that_nobody_takes(workers: Workers, name: str) -> None:
    assert all(workers.run(4, step_once, Setting(4, 4, 3, "mlp", "posted", name, OPTIONS)))
