import pytest
import torch

from surmin.experiments.runs.batches import Batches
from surmin.experiments.runs.position import Position

INPUTS = torch.arange(10.0).unsqueeze(1)
TARGETS = torch.arange(10)


def test_the_full_batch_is_always_the_same_tensors() -> None:
    batches = Batches(INPUTS, TARGETS, 0, seed=0)
    assert batches.size == 10
    inputs, targets = batches.batch(0)
    assert torch.equal(inputs, INPUTS) and torch.equal(targets, TARGETS)
    assert all(batches.batch(number)[0] is inputs and batches.batch(number)[1] is targets for number in range(3))


@pytest.mark.parametrize("size", [0, 4])
def test_the_replicas_shares_are_the_batch(size: int) -> None:
    whole = Batches(INPUTS, TARGETS, size, seed=3)
    shares = [Batches(INPUTS, TARGETS, size, seed=3, position=Position(replica, 2)) for replica in range(2)]
    for number in range(5):
        parts = [share.batch(number) for share in shares]
        assert all(
            len(inputs) == share.size == whole.size // 2 for share, (inputs, _) in zip(shares, parts, strict=True)
        )
        for tensors, expected in zip(zip(*parts, strict=True), whole.batch(number), strict=True):
            assert torch.equal(torch.cat(tensors), expected)


def test_shares_that_would_not_be_equal() -> None:
    with pytest.raises(ValueError, match="10 samples cannot be shared equally by 4 replicas: give batch_size"):
        Batches(INPUTS, TARGETS, 0, seed=0, position=Position(1, 4))


def test_every_epoch_is_another_permutation() -> None:
    batches = Batches(INPUTS, TARGETS, 3, seed=0)
    epochs = [torch.cat([batches.batch(3 * epoch + i)[1] for i in range(3)]).tolist() for epoch in range(4)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    inputs, targets = batches.batch(5)
    assert inputs.squeeze(1).tolist() == targets.tolist()


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    walked = Batches(INPUTS, TARGETS, 4, seed=1)
    targets = [walked.batch(number)[1].tolist() for number in range(7)]
    assert Batches(INPUTS, TARGETS, 4, seed=1).batch(6)[1].tolist() == targets[6]
    assert [Batches(INPUTS, TARGETS, 4, seed=2).batch(number)[1].tolist() for number in range(7)] != targets


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(ValueError, match="batch_size 11 is more than the 10 training samples"):
        Batches(INPUTS, TARGETS, 11, seed=0)
