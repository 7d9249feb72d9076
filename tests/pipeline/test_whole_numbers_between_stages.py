"""A stage without parameters may hand on whole numbers: tokens, say."""

import torch
from torch import Tensor, nn

from surmin import CrossEntropy, SurrogateMinimizer


class Tokens(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs > 0).long()


def test_tokens_made_by_the_first_stage() -> None:
    torch.manual_seed(0)
    network = [Tokens(), nn.Sequential(nn.Embedding(2, 4), nn.Flatten()), nn.Linear(12, 3)]
    inputs, targets = torch.randn(20, 3), torch.arange(20) % 3
    sm = SurrogateMinimizer(network, CrossEntropy())
    reports = [sm.step(inputs, targets) for _ in range(3)]
    whole = SurrogateMinimizer(nn.Sequential(*network), CrossEntropy())
    assert reports[-1].new_loss < reports[0].loss
    assert whole.step(inputs, targets).loss == reports[-1].new_loss
