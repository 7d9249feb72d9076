"""Channels between the stages of one process; over workers they are tested in tests/distributed."""

import pytest
import torch
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.losses import SquaredError
from surmin.pipeline.exchange import Exchange
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from tests.methods.cases import make_batch, make_model, make_pipeline


def message(number: float, size: int = 2) -> Message:
    return (torch.full((size,), float(number)),)


def number(found: Message) -> float:
    (tensor,) = found
    return float(tensor[0])


def begun(stages: int = 3, batch: tuple[Tensor, Tensor] | None = None) -> tuple[InProcessPipeline, Exchange]:
    pipeline = make_pipeline(make_model(), stages)
    exchange = pipeline.exchange(("activation", "target"), ("gradient",))
    exchange.begin(*(batch or make_batch()))
    return pipeline, exchange


def test_every_channel_keeps_its_order() -> None:
    _, exchange = begun()
    for value in (1, 2):
        exchange.put("activation", 0, message(value))
        exchange.put("activation", 1, message(10 * value))
        exchange.put("gradient", 2, message(100 * value))
    exchange.put("target", 0, message(-1))
    assert [number(exchange.take("activation", 1)) for _ in range(2)] == [1, 2]
    assert [number(exchange.take("gradient", 1)) for _ in range(2)] == [100, 200]
    assert [number(exchange.take("activation", 2)) for _ in range(2)] == [10, 20]
    assert number(exchange.take("target", 1)) == -1
    with pytest.raises(RuntimeError, match=r"the stage at 1 takes a message of .* that was not put"):
        exchange.take("activation", 1)


def test_a_message_is_held_over_batches_of_its_own_and_of_another_shape() -> None:
    inputs, targets = make_batch()
    _, exchange = begun()
    exchange.put("gradient", 1, message(1))
    exchange.begin(inputs[:12], targets[:12])
    exchange.put("gradient", 1, message(2, size=1))
    exchange.put("gradient", 1, message(3), inputs.shape)
    assert number(exchange.take("gradient", 0)) == 2
    assert number(exchange.take("gradient", 0, inputs.shape)) == 1
    exchange.begin(inputs, targets)
    assert number(exchange.take("gradient", 0)) == 3


def test_pending_messages_can_still_be_taken_and_be_restored_elsewhere() -> None:
    shape = make_batch()[0].shape
    _, exchange = begun()
    _, other = begun()
    for value in (1, 2, 3):
        exchange.put("activation", 0, message(value))
    pending = exchange.pending("activation", 1, shape, 2)
    assert list(map(number, pending)) == [1, 2]
    other.restore("activation", 1, shape, pending)
    other.put("activation", 0, message(4))
    assert [number(exchange.take("activation", 1)) for _ in range(3)] == [1, 2, 3]
    assert [number(other.take("activation", 1)) for _ in range(3)] == [1, 2, 4]


def test_two_exchanges_of_a_pipeline_do_not_mix() -> None:
    pipeline, exchange = begun()
    other = pipeline.exchange(("activation",))
    other.begin(*make_batch())
    exchange.put("activation", 0, message(1))
    other.put("activation", 0, message(2))
    assert (number(other.take("activation", 1)), number(exchange.take("activation", 1))) == (2, 1)


def test_what_crosses_between_workers_is_counted() -> None:
    model = make_model()
    pipeline = InProcessPipeline(partition(model, 3), make_pipeline(model).loss, workers=2)
    exchange = pipeline.exchange(("activation",), ("gradient",))
    exchange.begin(*make_batch())
    assert (pipeline.traffic.messages, pipeline.traffic.bytes) == (0, 0)
    for position in (0, 1):
        exchange.put("activation", position, (torch.zeros(3), torch.zeros(2, dtype=torch.float64)))
        exchange.put("gradient", position + 1, message(1))
    assert (pipeline.traffic.messages, pipeline.traffic.bytes) == (2, 3 * 4 + 2 * 8 + 2 * 4)


@pytest.mark.parametrize("microbatches", [1, 3])
def test_the_unit_of_work_is_known_and_not_counted(microbatches: int) -> None:
    batch = make_batch()
    pipeline, other = (make_pipeline(make_model(), 3, microbatches) for _ in range(2))
    exchange = pipeline.exchange()
    exchange.begin(*batch)
    assert pipeline.work.operations == 0
    other.backward(other.forward(*batch))
    assert pipeline.gradient_operations(batch[0].shape) == other.work.operations > 0
    assert (exchange.stages_below, exchange.stages_above) == (0, 0)
    exchange.settle()


def test_bad_batches() -> None:
    inputs, targets = make_batch()
    pipeline = make_pipeline(make_model(), 2, 4)
    exchange = pipeline.exchange()
    for _ in range(2):
        with pytest.raises(ValueError, match="a batch of 23 samples cannot be cut into 4 equal micro-batches"):
            exchange.begin(inputs[1:], targets[1:])
        with pytest.raises(ValueError, match="labels run from"):
            exchange.begin(inputs, targets + 5)
    exchange.begin(inputs, targets)
    with pytest.raises(ValueError, match="labels run from"):
        exchange.begin(inputs, targets + 5)
    with pytest.raises(ValueError, match="inputs contain NaN"):
        exchange.begin(inputs * torch.nan, targets)
    targets.fill_(7)
    with pytest.raises(ValueError, match="labels run from"):
        exchange.begin(inputs, targets)


def test_a_network_that_gives_fewer_rows_than_samples() -> None:
    inputs, targets = make_batch()
    pipeline = InProcessPipeline([torch.nn.Linear(5, 3).double(), Halving()], make_pipeline(make_model()).loss)
    with pytest.raises(ValueError, match=r"layer 1 \(Halving\) turned inputs of shape \(24, 3\) into \(12, 3\)"):
        pipeline.exchange().begin(inputs, targets)


def test_outputs_of_more_dimensions_than_can_be_told() -> None:
    stage = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Unflatten(1, (3, *[1] * 7))).double()
    inputs, _ = make_batch()
    with pytest.raises(ValueError, match=r"outputs of type torch.float64 and shape \[24, 3, .* cannot be described"):
        InProcessPipeline([stage], SquaredError()).exchange().begin(inputs, stage(inputs).detach())


class Halving(torch.nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[::2]
