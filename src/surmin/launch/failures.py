"""Ending when another worker has failed and no supervisor ends this one: by a note that all can read.

torchrun only asks them to end, by a signal that an interrupted run notes and then finishes its round; it kills them
30 s later. A worker that hangs would take all of these.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store, _get_default_store

from surmin.launch.reports import PeerError
from surmin.launch.worker import Worker

NOTE = f"surmin/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
"""The key under which the default process group's store has the failed worker's rank. torchrun's outlives a restart."""


@contextmanager
def ended_by_failures(worker: Worker, timeout: float) -> Iterator[None]:
    """While inside, this worker ends soon after another has failed, whatever it is doing, unless it has a supervisor.

    Args:
        worker: this process, a member of the default process group.
        timeout: seconds that workers wait for each other; a twentieth of them, or a second, is left to end unaided.
    """
    if worker.supervisor is not None:
        yield
        return
    store = _get_default_store().clone()  # type: ignore[attr-defined]  # a thread needs its own
    left = threading.Event()
    watch = threading.Thread(target=_watch, args=(worker, store, timeout, left), daemon=True)
    watch.start()
    try:
        yield
    finally:
        left.set()
        watch.join(1.0)


def tell_failure(worker: Worker) -> None:
    """Make the others end, before this one does, unless a supervisor does so."""
    if worker.supervisor is None and dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            _get_default_store().set(NOTE, str(worker.rank))


def _watch(worker: Worker, store: Store, timeout: float, left: threading.Event) -> None:
    while not left.wait(min(1.0, timeout / 50)):
        failure = _failure(store)
        if failure and not left.wait(min(1.0, timeout / 20)):
            worker.fail(failure)


def _failure(store: Store) -> PeerError | None:
    """Another worker's failure; the store disappears with torchrun, or with the worker that holds it."""
    try:
        if store.check([NOTE]):
            return PeerError(False, int(store.get(NOTE)), "it has failed, and this worker did not notice by itself")
    except RuntimeError:
        return PeerError(False, None, "the store by which all workers have met is gone")
    return None
