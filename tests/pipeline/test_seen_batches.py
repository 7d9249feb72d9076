"""What a worker knows of the batches it has seen, and what it looks at again in other modes."""

from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from surmin import CrossEntropy, SurrogateMinimizer
from surmin.pipeline import watch
from surmin.pipeline.seen_batches import SeenBatches
from surmin.stages.stage import stages_of


def batch(samples: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 3, generator=generator), torch.arange(samples) % 2


def seen_by(*modules: nn.Module) -> SeenBatches:
    return SeenBatches(stages_of([nn.Sequential(nn.Linear(3, 4), *modules, nn.Linear(4, 2))]), microbatches=1)


def test_a_batch_is_known_again_for_the_purpose_it_came_for_and_no_other() -> None:
    batches, (inputs, targets), like = seen_by(), batch(), torch.zeros(8, 2)
    first = batches.see(inputs, targets, "curvature")
    assert not first.is_known and first.like is None
    batches.note(first, inputs, targets, like)
    again = batches.see(inputs, targets, "curvature")
    assert again.is_known and again.like is like
    other = batches.see(inputs, targets, "messages")
    assert not other.is_known and other.like is None


def test_another_batch_of_the_same_description_is_not_known_but_what_its_outputs_are_like() -> None:
    batches, (inputs, targets), like = seen_by(), batch(), torch.zeros(8, 2)
    batches.note(batches.see(inputs, targets, "curvature"), inputs, targets, like)
    equal = batches.see(*batch(), "curvature")
    assert not equal.is_known and equal.like is like
    assert batches.see(*batch(6), "curvature").like is None


class Raising(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, inputs: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("kind", [RuntimeError, IndexError, ValueError, AttributeError])
def test_what_a_layer_says_of_a_batch_is_a_misfit(kind: type[Exception]) -> None:
    found = seen_by(Raising(kind("of a layer"))).misfit(batch()[0])
    assert isinstance(found, ValueError) and str(found).endswith("of a layer")
    assert seen_by().misfit(batch()[0]) is None


def test_memory_that_is_used_up_is_no_misfit() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        seen_by(Raising(torch.OutOfMemoryError("none left"))).misfit(batch()[0])


class CentredInTraining(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(0) if self.training else inputs + 0.0


def test_what_ties_samples_in_training_mode_is_seen_on_samples_kept_from_before() -> None:
    """Kept as they were: what the first batch lay in may hold anything by now."""
    network = nn.Sequential(nn.Linear(3, 4), CentredInTraining(), nn.Linear(4, 2)).eval()
    sm, (inputs, targets) = SurrogateMinimizer([network], CrossEntropy()), batch()
    sm.step(inputs, targets)
    inputs.fill_(torch.nan)
    network.train()
    with pytest.raises(ValueError, match=r"layer 1 \(CentredInTraining\) gives a sample a different output"):
        sm.step(*batch())


def test_samples_are_looked_at_once_and_once_more_in_every_other_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Mock(wraps=watch.check_independence)
    monkeypatch.setattr(watch, "check_independence", looks)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    sm, counts = SurrogateMinimizer([network], CrossEntropy()), []
    for change in (network.eval, network.eval, network.train, network.train):
        change()
        for samples in (8, 6):
            sm.step(*batch(samples))
        counts.append(looks.call_count)
    assert counts == [1, 1, 2, 2]
