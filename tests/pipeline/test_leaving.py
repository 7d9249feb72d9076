"""What leaves a worker whose stages only look at the batch in another shape is not the batch's own memory."""

import torch
from torch import Tensor, nn

from surmin.curvature.output_curvature import Message
from surmin.losses import CrossEntropy
from surmin.pipeline.links import Kind, NoLinks
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.replicas import ONE_REPLICA
from surmin.stages.stage import stages_of


class KeptLinks(NoLinks):
    """Of the first worker; what it sends is kept, as it is while it is under way."""

    is_last = False

    def __init__(self) -> None:
        super().__init__(workers=2)
        self.sent: list[Message] = []

    def receive(self, kind: Kind) -> Message:
        return (torch.zeros(1, dtype=torch.int64),)

    def total(self, values: Tensor, traffic: Traffic) -> list[float]:
        return [0, 2, 4, 3, *[0] * 6]  # outputs of float32, shape (4, 3)

    def send(self, kind: Kind, message: Message) -> None:
        self.sent.append(message)


def test_the_next_batch_may_be_put_into_the_last_one_s_tensors() -> None:
    links = KeptLinks()
    stages = stages_of([nn.Sequential(nn.Flatten(), nn.Identity())])
    pipeline = WorkerPipeline(stages, CrossEntropy(), 2, links, frozenset(), ONE_REPLICA, Traffic())
    exchange = pipeline.exchange(upwards=["activation"])
    inputs, targets = torch.randn(4, 2, 3), torch.arange(4) % 3
    expected = inputs.flatten(1).clone()
    pipeline.predict(inputs)
    pipeline.forward(inputs, targets)
    exchange.begin(inputs, targets)
    exchange.put("activation", 0, (inputs.flatten(1),))
    inputs.zero_()
    predicted, first, second, *_, put = (message[0] for message in links.sent)
    assert torch.equal(predicted, expected)
    assert torch.equal(torch.cat([first[0], second[0]]), expected)
    assert torch.equal(put, expected)
