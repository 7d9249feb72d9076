import pytest

from surmin.experiments.runs.position import Position


@pytest.mark.parametrize(("workers", "replicas"), [(1, 1), (4, 1), (4, 2), (4, 4), (6, 2)])
def test_every_worker_has_a_place_of_its_own(workers: int, replicas: int) -> None:
    positions = [Position.of(rank, workers, replicas) for rank in range(workers)]
    length = workers // replicas
    assert {(own.replica, own.place) for own in positions} == {(r, p) for r in range(replicas) for p in range(length)}
    assert all((own.replicas, own.length) == (replicas, length) for own in positions)
    assert [own.replica for own in positions] == sorted(own.replica for own in positions)


def test_shares_follow_each_other() -> None:
    assert [Position(replica, 3).share(12) for replica in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    with pytest.raises(ValueError, match="10 samples cannot be shared equally by 3 replicas"):
        Position(0, 3).share(10)
