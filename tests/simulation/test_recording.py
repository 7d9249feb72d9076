"""Workers of one process do, send and find what the same network does in one pipeline."""

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from surmin import CrossEntropy, partition
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.simulation.measuring import train
from surmin.simulation.operations import Hear, Receive, Send, Tell, Total, Work
from surmin.simulation.schedules import reorder
from surmin.simulation.team import RecordedTeam

STAGES, MICROBATCHES = 3, 4
METHODS = [
    ("sm", {}), ("sm", {"preset": "links"}), ("sm-paper", {}), ("adam", {"lr": 0.01}), ("gd-armijo", {}),
    ("lbfgs", {"inner_steps": 3}), ("cgblock", {"inner_steps": 2}), ("sm", {"preset": "trips", "inner_steps": 1}),
]  # fmt: skip


def network() -> list[nn.Module]:
    torch.manual_seed(3)
    layers = [nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)]
    return partition(nn.Sequential(*layers).double(), STAGES)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(24, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (24,), generator=generator)


def build(method: str, options: dict[str, Any], pipeline: WorkerPipeline) -> Any:
    return build_method(method, pipeline, seed=1, **options)


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_a_team_does_what_one_process_does(method: str, options: dict[str, Any]) -> None:
    stages, inputs_and_targets = network(), batch()
    alone = InProcessPipeline(stages, CrossEntropy(), microbatches=MICROBATCHES)
    single = build(method, options, alone)
    team = RecordedTeam(network(), CrossEntropy(), MICROBATCHES)
    make = partial(build, method, options)
    team.warm_up(make, *inputs_and_targets)
    workers = team.build(make)
    for _ in range(4):
        report = single.step(*inputs_and_targets)
        recorded = team.step(workers, *inputs_and_targets)
        assert recorded.end_loss == pytest.approx(report.new_loss, rel=1e-9, nan_ok=True)
        assert recorded.start_loss == pytest.approx(report.loss, rel=1e-9, nan_ok=True)
        assert recorded.messages == alone.traffic.messages
        assert recorded.bytes == alone.traffic.bytes
        assert recorded.forward_waves == alone.traffic.forward_waves
    for ours, theirs in zip(team.modules, stages, strict=True):
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(own, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("microbatches", "sent"), [(1, 1), (MICROBATCHES, 2)])
def test_in_sequence_a_candidate_is_sent_before_the_next_is_solved_for(microbatches: int, sent: int) -> None:
    """So the next stage has something to do meanwhile. With one micro-batch all go together."""
    team = RecordedTeam(network(), CrossEntropy(), microbatches)
    make = partial(build, "sm", {"preset": "trips", "inner_steps": 1})
    team.warm_up(make, *batch())
    methods, data = team.build(make), batch()
    first, *_ = [team.step(methods, *data) for _ in range(2)][-1].programs
    solving = [own for own in first if isinstance(own, Send) or (isinstance(own, Work) and own.letter == "U")]
    upwards = [number for number, own in enumerate(solving) if isinstance(own, Send) and own.wave == "forward"]
    assert len(upwards) == sent
    assert all(later - earlier > 1 for earlier, later in pairwise(upwards))


def test_every_message_is_sent_and_received_once_and_computing_takes_time() -> None:
    team = RecordedTeam(network(), CrossEntropy(), MICROBATCHES)
    make = partial(build, "sm", {})
    team.warm_up(make, *batch())
    methods, data = team.build(make), batch()
    programs = [team.step(methods, *data).programs for _ in range(2)][-1]
    for place, program in enumerate(programs[:-1]):
        for step, here, there in ((1, program, programs[place + 1]), (-1, programs[place + 1], program)):
            sent = [(own.wave, own.bytes) for own in here if isinstance(own, Send) and own.step == step]
            received = [(own.wave, own.bytes) for own in there if isinstance(own, Receive) and own.step == -step]
            assert sent == received and sent
    for program in programs:
        letters = {own.letter for own in program if isinstance(own, Work) and own.seconds > 0}
        assert {"F", "B", "C", "U"} <= letters
        assert [own for own in program if isinstance(own, Tell | Hear)] == [Tell(), Hear(-1), Hear(1), Hear(0)]
        assert any(isinstance(own, Total) for own in program)


def test_an_error_of_one_worker_ends_all() -> None:
    team = RecordedTeam(network(), CrossEntropy(), MICROBATCHES)
    methods = team.build(partial(build, "adam", {"lr": 0.01}))
    with pytest.raises(ValueError, match="micro-batches"):
        team.step(methods, *(tensor[:22] for tensor in batch()))


def test_on_mini_batches_the_loss_of_all_samples_counts() -> None:
    inputs, targets = batch()
    used: list[int] = []

    def part(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        used.append(number)
        own = slice(5 * (number % 4), 5 * (number % 4) + 5)
        return inputs[own], targets[own]

    stages = network()
    found = train(
        stages, CrossEntropy(), inputs, targets, "adam", {"lr": 0.05}, microbatches=5, target_loss=0.3,
        most_rounds=400, batch=part,
    )  # fmt: skip
    assert found is not None
    assert used == [0, *range(found.rounds)]  # one to warm up with
    samples = slice(0, 20)  # micro-batches are filled
    outputs = nn.Sequential(*stages)(inputs[samples])
    assert nn.functional.cross_entropy(outputs, targets[samples]) <= 0.3
    programs = found.kinds[0].programs
    assert not any(isinstance(own, Tell | Hear) for program in programs for own in program)
    assert not any(isinstance(own, Tell | Hear) for program in reorder(programs, "1f1b") for own in program)


def test_training_ends_at_the_loss_or_says_that_it_does_not() -> None:
    def rounds(target: float, most: int, method: str = "adam", lr: float = 0.05) -> int | None:
        found = train(
            network(), CrossEntropy(), *batch(), method, {"lr": lr}, microbatches=5, target_loss=target,
            most_rounds=most,
        )  # fmt: skip
        return None if found is None else found.rounds

    needed = rounds(0.3, 200)
    assert needed is not None and needed > 1
    assert rounds(0.3, needed) == needed
    assert rounds(0.3, needed - 1) is None
    assert rounds(100.0, 5) == 0
    assert rounds(1e-3, 50, "gd", 1e300) is None  # diverges
    with pytest.raises(ValueError, match="cannot be cut"):
        train(network(), CrossEntropy(), *batch(), "adam", {"lr": 0.1}, microbatches=25, target_loss=1.0, most_rounds=1)
