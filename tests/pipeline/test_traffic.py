"""Messages and bytes against a count by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from surmin import CrossEntropy, SurrogateMinimizer
from surmin.options import OptionValues
from surmin.stages.stage import Stage

SAMPLES, CLASSES, FLOAT = 12, 3, 4
CAREFUL: OptionValues = {
    "damping": 1.0,
    "adapt_decoupling": False,
    "momentum_candidates": (0.0,),
}  # the first try passes
WIDTHS = (5, 4)  # of the two boundaries


def stages() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Linear(6, 5), nn.Tanh()),
        nn.Sequential(nn.Linear(5, 4), nn.Tanh()),
        nn.Sequential(nn.Linear(4, CLASSES)),
    ]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SAMPLES, 6, generator=generator), torch.randint(CLASSES, (SAMPLES,), generator=generator)


def all_reduce(numbers: int) -> tuple[int, int]:
    """Up the pipe and down again over three stages, 8-byte numbers."""
    return 4, 4 * 8 * numbers


ACTIVATIONS = sum(SAMPLES * width * FLOAT for width in WIDTHS)  # one wave up or down


@pytest.mark.parametrize("microbatches", [1, 3])
def test_factor_on_the_whole_batch(microbatches: int) -> None:
    sm = SurrogateMinimizer(stages(), CrossEntropy(), microbatches=microbatches, curvature_fraction=1, **CAREFUL)
    columns = CLASSES - 1
    data = batch()
    first, second = sm.step(*data), sm.step(*data)
    assert first.accepted and first.tries == 1
    messages, bytes_ = all_reduce(4)
    # wave 1 up, wave 2 down, wave 3 down with `columns` vectors, wave 5 up
    assert first.messages == 2 * microbatches * 4 + messages
    assert first.bytes_sent == ACTIVATIONS * (3 + columns) + bytes_
    assert first.forward_waves == 2
    assert second.accepted and second.forward_waves == 1  # the accepted wave was used again
    assert second.messages == 2 * microbatches * 3 + messages
    assert second.bytes_sent == ACTIVATIONS * (2 + columns) + bytes_


def test_nothing_goes_down_to_where_nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    network = [stages()[0].requires_grad_(False), *stages()[1:]]
    sm = SurrogateMinimizer(network, CrossEntropy(), curvature_fraction=1, **CAREFUL)
    went_down = []
    backward = Stage.backward

    def watched(stage: Stage, *arguments: Any) -> list[torch.Tensor]:
        went_down.append(stage)
        return backward(stage, *arguments)

    monkeypatch.setattr(Stage, "backward", watched)
    report = sm.step(*batch())
    assert report.accepted and report.tries == 1
    assert went_down == sm.pipeline.stages[:0:-1]
    up, down = ACTIVATIONS, SAMPLES * WIDTHS[1] * FLOAT
    assert report.bytes_sent == 2 * up + CLASSES * down + all_reduce(4)[1]


@pytest.mark.parametrize(("microbatches", "upwards", "sums"), [(1, 1, 3), (3, 2, 4)])
def test_stages_in_sequence_send_sums_with_activations(microbatches: int, upwards: int, sums: int) -> None:
    """All candidates in one message, or one in each where there are micro-batches."""
    sm = SurrogateMinimizer(
        stages(), CrossEntropy(), microbatches=microbatches, preset="trips", damping=1.0, damping_candidates=(1.0, 2.0)
    )
    data = batch()
    first, second = sm.step(*data), sm.step(*data)
    assert first.tries == second.tries == 1 and second.accepted
    # up the activations of both candidates with sums, down gradients, columns, and six numbers all are told
    numbers = 2 * 8 * (sums + 6)
    assert second.messages == 2 * (upwards + 2 * microbatches + 1)
    assert second.bytes_sent == ACTIVATIONS * (2 + 1 + CLASSES - 1) + numbers
    assert first.messages == second.messages + 2 * microbatches
    assert (first.forward_waves, second.forward_waves) == (2, 1)


def test_factor_on_a_quarter_sends_rows_too() -> None:
    sm = SurrogateMinimizer(stages(), CrossEntropy(), rank=5, curvature_fraction=0.25, **CAREFUL)
    report = sm.step(*batch())
    assert report.tries == 1
    sampled, columns = 3, 5
    messages, bytes_ = all_reduce(4)
    rows = 2 * sampled * 8
    curvature = sum(sampled * width * columns * FLOAT for width in WIDTHS) + rows
    assert report.bytes_sent == 3 * ACTIVATIONS + curvature + bytes_
    assert report.messages == 4 * 2 + messages


@pytest.mark.parametrize(("curvature", "numbers"), [("scalar", 1), ("sample", SAMPLES)])
def test_scalar_curvatures_send_one_number_in_all_or_one_a_sample(curvature: str, numbers: int) -> None:
    sm = SurrogateMinimizer(stages(), CrossEntropy(), preset="paper", curvature=curvature)
    report = sm.step(*batch())
    messages, bytes_ = all_reduce(3)
    assert report.forward_waves == 1  # no test of the step
    assert report.bytes_sent == 2 * ACTIVATIONS + 2 * numbers * FLOAT + bytes_
    assert report.messages == 3 * 2 + messages


def test_several_dampings_share_a_forward_wave() -> None:
    options: OptionValues = {**CAREFUL, "curvature_fraction": 1, "damping_candidates": (0.1, 1.0, 3.0)}
    report = SurrogateMinimizer(stages(), CrossEntropy(), **options).step(*batch())
    messages, bytes_ = all_reduce(2 + 2 * 3)
    assert report.forward_waves == 2
    assert report.bytes_sent == ACTIVATIONS * (1 + 1 + CLASSES - 1 + 3) + bytes_
    assert report.messages == 2 * (3 + 1) + messages


def test_one_stage_sends_nothing() -> None:
    report = SurrogateMinimizer([nn.Sequential(*stages())], CrossEntropy()).step(*batch())
    assert (report.messages, report.bytes_sent) == (0, 0)


def test_a_rejected_try_costs_a_forward_wave() -> None:
    """Damping far too small for ReLU layers with huge weights: the first tries fail."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, CLASSES))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 8
    sm = SurrogateMinimizer([network[:2], network[2:4], network[4:]], CrossEntropy(), damping=1e-9, max_tries=40)
    report = sm.step(*batch())
    assert report.tries > 1
    assert report.forward_waves == 1 + report.tries
