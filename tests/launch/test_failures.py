"""With a store, but no processes: `test_group.py` has those."""

import socket
import threading

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store

from surmin.launch import failures
from surmin.launch.failures import NOTE, ended_by_failures, tell_failure
from surmin.launch.reports import PeerError
from surmin.launch.worker import Worker
from tests.launch.cases import wait_until

WORKER = Worker(rank=1, count=2, local_rank=1)


class Gone(HashStore):
    """A store whose host has ended."""

    def clone(self) -> Store:
        return self

    def check(self, keys: list[str]) -> bool:
        raise dist.DistNetworkError("Failed to recv, got 0 bytes")


class Watched(HashStore):
    """A store that knows whether the note in it has been read."""

    read = False

    def clone(self) -> Store:
        return self

    def check(self, keys: list[str]) -> bool:
        self.read = super().check(keys)
        return self.read


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = HashStore()
    monkeypatch.setattr(failures, "_get_default_store", lambda: store)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    return store


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What the worker would have ended with."""
    errors: list[BaseException] = []
    monkeypatch.setattr(Worker, "fail", lambda _, error: errors.append(error))
    return errors


def test_a_worker_ends_by_the_failure_of_another(store: Store, ends: list[BaseException]) -> None:
    with ended_by_failures(WORKER, 0.2):
        tell_failure(Worker(rank=0, count=2, local_rank=0))
        wait_until(lambda: ends != [])
    assert isinstance(ends[0], PeerError)
    assert (ends[0].late, ends[0].peer) == (False, 0)
    assert str(ends[0]) == "lost worker 0 (it has failed, and this worker did not notice by itself)"


def test_a_worker_ends_when_the_store_is_gone(
    monkeypatch: pytest.MonkeyPatch, store: Store, ends: list[BaseException]
) -> None:
    monkeypatch.setattr(failures, "_get_default_store", Gone)
    with ended_by_failures(WORKER, 0.2):
        wait_until(lambda: ends != [])
    assert str(ends[0]) == "lost another worker (the store by which all workers have met is gone)"


def test_one_that_leaves_in_time_does_not_end(monkeypatch: pytest.MonkeyPatch, ends: list[BaseException]) -> None:
    """A second is left to it after the note was read."""
    store = Watched()
    monkeypatch.setattr(failures, "_get_default_store", lambda: store)
    with ended_by_failures(WORKER, 20.0):
        store.set(NOTE, "0")
        wait_until(lambda: store.read)
    assert ends == []


def test_nothing_goes_on_after_leaving(store: Store, ends: list[BaseException]) -> None:
    before = threading.active_count()
    with ended_by_failures(WORKER, 1.0):
        assert threading.active_count() == before + 1
    with pytest.raises(KeyError), ended_by_failures(WORKER, 1.0):
        raise KeyError
    assert threading.active_count() == before
    assert ends == []


def test_a_supervisor_is_left_to_it(store: Store, ends: list[BaseException]) -> None:
    before = threading.active_count()
    with socket.socket() as supervisor:
        supervised = Worker(rank=1, count=2, local_rank=1, supervisor=supervisor)
        with ended_by_failures(supervised, 1.0):
            assert threading.active_count() == before
        tell_failure(supervised)
    assert not store.check([NOTE])
